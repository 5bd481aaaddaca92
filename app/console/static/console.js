// Times in the reader's zone, copying, and the live view. Every page works without it.
"use strict";

const page = document.documentElement.dataset;
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const clock = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric",
  hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "shortOffset",
});

// The server writes times in this zone from the next page on.
function tellZone() {
  document.cookie = `dlr_zone=${zone}; path=${page.root}/; max-age=31536000; samesite=strict`;
}

// Only where the server didn't know the zone, so that nothing changes before the reader's eyes.
function showTimes(within) {
  if (page.zone === zone) return;
  for (const time of within.querySelectorAll("time[datetime]")) {
    time.textContent = clock.format(new Date(time.dateTime)).replace("GMT", "UTC");
  }
}

function offerCopying() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    // Browsers let only pages over https, or of this very machine, write to the clipboard.
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

function follow(table) {
  const most = Number(table.dataset.most);
  const told = document.getElementById("live-state");
  const pause = document.getElementById("pause");
  let source = null;

  function say(text, isOn) {
    told.textContent = text;
    told.parentElement.classList.toggle("on", isOn);
  }

  // The server has escaped the rows.
  function add(html) {
    const arrived = document.createElement("template");
    arrived.innerHTML = html;
    showTimes(arrived.content);
    for (const row of arrived.content.querySelectorAll("tr")) row.classList.add("new");
    for (const link of arrived.content.querySelectorAll("a")) {
      for (const known of table.querySelectorAll("a")) {
        if (known.getAttribute("href") === link.getAttribute("href")) known.closest("tr").remove();
      }
    }
    table.prepend(arrived.content);
    while (table.rows.length > most) table.deleteRow(-1);
  }

  function start() {
    source = new EventSource(table.dataset.events);
    source.addEventListener("open", () => say("Live", true));
    source.addEventListener("rows", (event) => { say("Live", true); add(event.data); });
    source.addEventListener("behind", (event) => { say("Live: too many to show all", true); add(event.data); });
    source.addEventListener("signed-out", () => location.reload());
    source.addEventListener("error", () => {
      // Closed for good, by signing out for example; otherwise the browser connects again.
      say(source.readyState === EventSource.CLOSED ? "Ended: reload the page" : "Connecting again…", false);
    });
  }

  function stop() {
    source.close();
    source = null;
    say("Paused", false);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    if (source) stop(); else start();
    pause.textContent = source ? "Pause" : "Go on";
  });
  window.addEventListener("pagehide", () => { if (source) source.close(); });
  say("Connecting…", false);
  start();
}

if (zone) {
  tellZone();
  showTimes(document);
}
offerCopying();
const live = document.getElementById("live");
if (live) follow(live);
