// What a page gains with a script: it stays up to date, and answers by keys. Everything works without.
"use strict";

// A part that refreshes itself waits while somebody is about to do something in it, or the page is not seen.
document.addEventListener("htmx:before:request", (event) => {
  const source = event.target;
  if (!(source instanceof Element) || !source.matches("[data-live]")) return;
  const busy = source.querySelector("details.act[open], :focus-within") !== null;
  if (busy || document.hidden) event.preventDefault();
});

// One key, one answer: the key that a button shows.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const at = event.target;
  if (at instanceof Element && at.closest("input, textarea, select")) return;
  const button = document.querySelector(`[data-key="${CSS.escape(event.key)}"]:not([disabled])`);
  if (button === null) return;
  event.preventDefault();
  button.click();
});
