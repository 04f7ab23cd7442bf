// Fetches the page anew and changes only what differs, so that scroll, focus, selection and open details stay.
"use strict";

const SECONDS = Number(document.body.dataset.refreshSeconds);
const LIVE = ["banners", "glance", "scale-sets"];
const OURS = new Set(["trouble", "pause"]);
const pause = document.getElementById("pause");
const trouble = document.getElementById("trouble");
let asked = Date.now();

async function refresh() {
  asked = Date.now();
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!LIVE.every((id) => fresh.getElementById(id))) throw new Error("it answers with another page");
    if (fresh.querySelector("script").src !== document.querySelector("script").src) location.reload();
    keepingPlace(() => {
      document.title = fresh.title;
      for (const id of LIVE) patch(document.getElementById(id), fresh.getElementById(id));
    });
    say("");
  } catch (error) {
    say(`Not refreshed: ${error.message}`);
  }
}

function say(text) {
  if (trouble.textContent !== text) trouble.textContent = text;
}

function keepingPlace(change) {
  const focused = document.activeElement;
  const seen = [...document.querySelectorAll("tbody tr")].find((row) => row.getBoundingClientRect().bottom > 0);
  const before = scrollY > 0 && seen ? seen.getBoundingClientRect().top : null;
  change();
  if (before !== null && seen.isConnected) scrollBy(0, seen.getBoundingClientRect().top - before);
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (OURS.has(old.id)) return;
  for (const { name } of [...old.attributes]) {
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  patchChildren(old, fresh);
}

// Children with an id are the same wherever they move; the others are the same where they stand.
function patchChildren(old, fresh) {
  const wantedIds = new Set([...fresh.children].map((child) => child.id));
  for (const child of [...old.children]) {
    if (child.id && !wantedIds.has(child.id)) child.remove();
  }
  const known = new Map([...old.children].map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    while (wanted.id && place && !place.id) place = next(place, true);
    const same = wanted.id ? known.get(wanted.id) : place && !place.id && place.nodeName === wanted.nodeName && place;
    if (same) {
      if (same === place) place = next(place, false);
      else old.insertBefore(same, place);
      patch(same, wanted);
    } else {
      old.insertBefore(document.importNode(wanted, true), place);
    }
  }
  while (place) place = next(place, true);
}

function next(place, remove) {
  const following = place.nextSibling;
  if (remove) place.remove();
  return following;
}

function due() {
  const paused = pause.getAttribute("aria-pressed") === "true";
  if (!paused && !document.hidden && Date.now() - asked >= SECONDS * 1000) refresh();
}

pause.hidden = false;
pause.addEventListener("click", () => {
  const paused = pause.getAttribute("aria-pressed") === "true";
  pause.setAttribute("aria-pressed", String(!paused));
  if (paused) refresh();
});
document.addEventListener("visibilitychange", due);
setInterval(due, 1000);
