// Keeps a page up to date: fetches it repeatedly while it is visible, and applies the changes.

const LEAST = 2000;
const live = document.getElementById("live");

/** Follows the page's own address, and calls `show` after each answer. Returns a function that asks at once. */
export function follow(show = () => {}) {
  let timer = 0;
  let latest = 0;
  let took = 0;

  async function ask() {
    clearTimeout(timer);
    const mine = ++latest;
    const began = performance.now();
    try {
      const response = await fetch(location.href);
      const text = await response.text();
      if (mine !== latest) return;
      if (!response.ok) throw new Error(`status ${response.status}`);
      const page = new DOMParser().parseFromString(text, "text/html");
      for (const id of ["as-of", "content"]) renew(document.getElementById(id), page.getElementById(id));
      show();
    } catch (error) {
      if (mine === latest) silent(error);
    } finally {
      took = performance.now() - began;
      if (mine === latest) again();
    }
  }

  function again() {
    clearTimeout(timer);
    // A slow or distant server gets no more requests than before.
    const pause = Math.max(LEAST, Number(live.dataset.interval) * 1000, 10 * took);
    if (live.checked && !document.hidden) timer = setTimeout(ask, pause);
  }

  live.addEventListener("change", () => (live.checked ? ask() : clearTimeout(timer)));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if (live.checked) ask();
  });
  ask();
  return ask;
}

/** Returns the JSON at an address; an error with its own words for anything but success. */
export async function fetchJson(address) {
  const response = await fetch(address, { headers: { Accept: "application/json" } });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `status ${response.status}`);
  return answer;
}

/** Sets an element's text, if it is another one: what does not change is not announced, nor laid out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Makes `old` like `fresh`, changing no more than differs: focus, selection and what is typed stay. Children with an
// id keep their element wherever they go. What scripts draw is theirs (`data-own`), what is opened the reader's.
function renew(old, fresh) {
  if (old.isEqualNode(fresh) || old.dataset?.own !== undefined) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const name of old.getAttributeNames()) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  const before = [...old.childNodes];
  const kept = new Map(before.filter((node) => node.id).map((node) => [node.id, node]));
  const nodes = [...fresh.childNodes].map((node, index) => {
    const there = node.id ? kept.get(node.id) : before[index];
    if (there?.nodeName !== node.nodeName || there.id !== node.id) return node;
    renew(there, node);
    return there;
  });
  if (nodes.length === before.length && nodes.every((node, index) => node === before[index])) return;
  // Moving an element takes the focus away from what is in it.
  const held = document.activeElement;
  old.replaceChildren(...nodes);
  if (held !== document.activeElement && old.contains(held)) held.focus({ preventScroll: true });
}

function silent(error) {
  const why = error instanceof TypeError ? "" : ` (${error.message})`;
  const since = document.getElementById("as-of").textContent;
  const line = document.createElement("p");
  line.className = "notice error";
  const word = document.createElement("strong");
  word.textContent = "Error";
  line.append(word, ` The autoscaler does not answer${why}. The values are those of ${since}.`);
  const notices = document.getElementById("notices");
  if (notices.textContent !== line.textContent) notices.replaceChildren(line);
}
