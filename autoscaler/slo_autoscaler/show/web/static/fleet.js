// The fleet table: follows the autoscaler, which filters and sorts as the form says.

import { follow } from "./live.js";

const form = document.getElementById("view");
const usual = { q: "", state: "", sort: "state" };
const ask = follow();

function choose() {
  const query = new URLSearchParams([...new FormData(form)].filter(([name, value]) => value !== usual[name]));
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  ask();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.name === "sort") form.querySelector("input[name=sort]").value = event.submitter.value;
  choose();
});
form.addEventListener("input", choose);
