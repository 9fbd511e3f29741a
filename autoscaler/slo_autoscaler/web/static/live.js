// Keeps a page up to date: asks its JSON again and again while it is looked at, and says so when nothing answers.

const LEAST = 2000;

/**
 * Asks `address()` now and every `interval` seconds, and gives the answers to `show`.
 * Returns a function that asks at once.
 */
export function follow(address, interval, show) {
  const live = document.getElementById("live");
  for (const each of document.querySelectorAll(".scripted")) each.hidden = false;
  for (const each of document.querySelectorAll(".unscripted")) each.hidden = true;
  let timer = 0;
  let latest = 0;
  let took = 0;

  async function ask() {
    clearTimeout(timer);
    const mine = ++latest;
    const began = performance.now();
    try {
      const answer = await fetchJson(address());
      if (mine !== latest) return;
      showTime(answer.time);
      showNotices(answer.notices);
      show(answer);
    } catch (error) {
      if (mine === latest) showNotices([{ level: "error", text: silence(error) }]);
    } finally {
      took = performance.now() - began;
      if (mine === latest) again();
    }
  }

  function again() {
    clearTimeout(timer);
    // Who is slow to answer, or far away, is not asked the more.
    const pause = Math.max(LEAST, interval * 1000, 10 * took);
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
export async function fetchJson(address, options = {}) {
  const response = await fetch(address, { headers: { Accept: "application/json" }, ...options });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `status ${response.status}`);
  return answer;
}

/** Sets an element's text, if it is another one: what does not change is not announced, nor laid out again. */
export function say(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

function silence(error) {
  const since = document.getElementById("as-of").textContent;
  const why = error instanceof TypeError ? "" : ` (${error.message})`;
  return `The autoscaler does not answer${why}. The values are those of ${since}.`;
}

function showTime(time) {
  const element = document.getElementById("as-of");
  element.dateTime = time;
  say(element, time.slice(11, 19));
}

function showNotices(notices) {
  const place = document.getElementById("notices");
  const words = { error: "Error", warning: "Warning", info: "Note" };
  const key = JSON.stringify(notices);
  if (place.dataset.shown === key) return;
  place.dataset.shown = key;
  place.replaceChildren(
    ...notices.map((notice) => {
      const line = document.createElement("p");
      line.className = `notice ${notice.level}`;
      const word = document.createElement("strong");
      word.textContent = words[notice.level];
      line.append(word, ` ${notice.text}`);
      return line;
    }),
  );
}
