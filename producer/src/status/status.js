// Puts new rows in place of old ones, every two seconds, as long as somebody can see them. Without it, the page shows how it was when it was
// loaded. Only what has changed is touched, and nothing that can have the focus.
"use strict";
(() => {
  const EVERY = 2000;
  const PATIENCE = 20000;
  const pause = document.getElementById("pause");
  const link = document.getElementById("link");
  let paused = false;
  let looking = false;
  let timer = 0;

  const say = (text) => {
    if (link.textContent !== text) link.textContent = text;
  };

  const look = async () => {
    clearTimeout(timer);
    if (paused || looking || document.hidden) return;
    looking = true;
    try {
      const answer = await fetch("./", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of paused ? [] : document.querySelectorAll("[data-live]")) {
        const now = fresh.getElementById(part.id);
        if (now && now.innerHTML !== part.innerHTML) part.replaceChildren(...now.childNodes);
      }
      say("");
    } catch {
      say("No answer. It is tried again.");
    }
    looking = false;
    timer = setTimeout(look, EVERY);
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    look();
  });
  document.addEventListener("visibilitychange", look);
  timer = setTimeout(look, EVERY);
})();
