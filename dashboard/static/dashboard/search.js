// Lets a search go on by itself. Its page comes with what a moment's look found: from
// #onward on, part by part, rows are added (or #found is replaced), and #sought says among
// how many, until the page is full, there is no more, or somebody stops it. Without this
// script there is a link or a button to go on.
(() => {
  "use strict";

  const PAUSE_MS = 50; // the server has others to answer
  const FAILURES_MOST = 5;
  const onward = document.getElementById("onward");
  const seeking = onward?.querySelector(".seeking"), further = onward?.querySelector("[data-further]");
  if (!seeking) return;
  const rows = document.querySelector("tbody[data-found]");
  const says = document.createElement("span");
  Object.assign(says, { className: "visually-hidden", role: "status" });
  onward.after(says);

  let stopped = false;
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const shows = (searching) => {
    seeking.hidden = !searching;
    further.hidden = searching;
    document.body.toggleAttribute("data-searching", searching);
    if (!searching) says.textContent = document.getElementById("sought")?.textContent ?? "";
  };
  seeking.querySelector("button").addEventListener("click", () => {
    stopped = true;
    shows(false);
    further.focus();
  });

  const ask = async () => {
    const form = onward.matches("form") && { method: "POST", body: new FormData(onward) };
    const response = await fetch(onward.dataset.next, { cache: "no-store", ...form });
    if (!response.ok || response.redirected) throw new Error(response.status);
    return new DOMParser().parseFromString(await response.text(), "text/html");
  };

  // Without what the next part is asked by, it was the last.
  const goesOn = (next) => {
    if (!next?.dataset.next) return false;
    onward.dataset.next = next.dataset.next;
    if (further.href) further.href = next.querySelector("[data-further]").href;
    for (const field of next.querySelectorAll("input[type=hidden]")) onward.elements[field.name].value = field.value;
    return true;
  };

  const take = (page) => {
    rows?.append(...page.querySelector("tbody[data-found]")?.rows ?? []);
    for (const id of ["sought", "found"]) {
      document.getElementById(id)?.replaceWith(page.getElementById(id));
    }
    document.dispatchEvent(new Event("mesh:painted"));
  };

  const search = async () => {
    shows(true);
    for (let failures = 0; !stopped;) {
      await pause(failures ? 500 * 2 ** failures : PAUSE_MS);
      let page;
      try {
        page = await ask();
        failures = 0;
      } catch {
        failures += 1;
        if (failures < FAILURES_MOST) continue;
        return shows(false);
      }
      if (stopped) return;
      take(page);
      const next = page.getElementById("onward");
      if (goesOn(next)) continue;
      shows(false);
      for (const words of document.querySelectorAll("[data-ended]")) words.textContent = words.dataset.ended;
      if (next) onward.replaceWith(next);
      else onward.remove();
      return;
    }
  };
  search();
})();
