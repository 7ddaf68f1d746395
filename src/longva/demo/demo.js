// What happens in the browser alone: jumping in the player, following it, dark and light.

// One of several media is on the stage; its timeline and player are shown, the others' are hidden.
const on_stage = () => document.querySelector(".lv-stage:not([hidden])");
const player = () => on_stage()?.querySelector("video");

function show_medium(number) {
  document.querySelectorAll(".lv-stage, .lv-timeline").forEach((part) => {
    part.hidden = part.dataset.medium !== number;
    if (part.hidden) part.querySelector("video")?.pause();
  });
  document.querySelectorAll(".lv-choose").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.show === number));
  });
}

function jump(seconds) {
  const video = player();
  if (!video) return;
  video.currentTime = seconds;
  video.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function point_at(medium, frame) {
  document.querySelectorAll(".lv-frame").forEach((button) => {
    const here = button.dataset.frame === frame && button.dataset.medium === medium;
    button.classList.toggle("lv-pointed", here);
    if (here) bring_into_sight(button);
  });
}

function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement("textarea"), { value: text });  // plain http
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function bring_into_sight(button) {
  const strip = button.closest("ol");
  const middle = button.offsetLeft - (strip.clientWidth - button.clientWidth) / 2;
  strip.scrollTo({ left: middle, behavior: "smooth" });
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("button[data-medium]");
  if (target) {
    show_medium(target.dataset.medium);
    if (target.dataset.frame) point_at(target.dataset.medium, target.dataset.frame);
    if (target.dataset.seconds) jump(Number(target.dataset.seconds));
  }
  const chosen = event.target.closest("[data-show]");
  if (chosen) show_medium(chosen.dataset.show);
  const copied = event.target.closest("[data-copy]");
  if (copied) {
    copy(copied.closest(".lv-turn").querySelector(".lv-answer").textContent);
    copied.textContent = "Copied";
  }
  const time = event.target.closest(".lv-time");  // in the words of an answer
  if (time) jump(Number(time.dataset.seconds));
  const curve = event.target.closest(".lv-curve");
  if (curve) {
    const box = curve.getBoundingClientRect();
    const duration = Number(curve.closest(".lv-timeline").dataset.duration);
    jump((duration * (event.clientX - box.left)) / box.width);
  }
  if (event.target.closest("#lv-theme")) {
    const dark = document.body.classList.toggle("dark");
    localStorage.setItem("longva-theme", dark ? "dark" : "light");
  }
});

// The picture that is on screen now, and a line on the curve. Media events do not bubble.
document.addEventListener("timeupdate", (event) => {
  if (event.target !== player()) return;
  const now = event.target.currentTime;
  let latest = null;
  const timeline = document.querySelector(".lv-timeline:not([hidden])");
  timeline?.querySelectorAll(".lv-frame[data-seconds]").forEach((button) => {
    button.classList.remove("lv-playing");
    if (Number(button.dataset.seconds) <= now + 0.05) latest = button;
  });
  if (latest) latest.classList.add("lv-playing");
  const line = timeline?.querySelector(".lv-now");
  const duration = Number(timeline?.dataset.duration);
  if (line && duration) line.style.left = `${Math.min(100, (100 * now) / duration)}%`;
}, true);

document.addEventListener("error", (event) => {
  if (!event.target.matches?.(".lv-player")) return;
  event.target.hidden = true;
  event.target.parentElement.querySelector(".lv-unplayable").hidden = false;
}, true);

// The conversation stays at its end, unless somebody scrolled up to read.
let following = true;
document.addEventListener("scroll", (event) => {
  const talk = event.target;
  if (talk.id !== "lv-talk") return;
  following = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
}, true);

function light_up() {
  const lit = document.querySelector(".lv-lit");
  if (!lit || document.querySelector(".lv-pointed")) return;
  const best = document.querySelector(".lv-turn:last-child .lv-chip");
  if (!best) return bring_into_sight(lit);
  const { medium, frame } = best.dataset;
  show_medium(medium);  // of several films the one that the answer rests on
  const button = `.lv-frame[data-medium="${medium}"][data-frame="${frame}"]`;
  bring_into_sight(document.querySelector(button) ?? lit);
}

// A search that has ended is told as well.
let told = "";
function announce_job() {
  const job = document.querySelector("#lv-found .lv-job:is(.lv-done, .lv-failed, .lv-stopped)");
  const said = job?.querySelector(".lv-facts, .lv-summary, .lv-problem")?.textContent.trim() ?? "";
  if (said && said !== told) document.getElementById("lv-live").textContent = said;
  told = said;
}

// Whoever hears the page is told an answer once, when it is whole.
let announced = "";
function announce() {
  const turn = document.querySelector(".lv-turn:last-child:is(.lv-done, .lv-failed, .lv-stopped)");
  const said = turn?.querySelector(".lv-answer, .lv-problem")?.textContent ?? "";
  const which = turn ? `${document.querySelectorAll(".lv-turn").length} ${said}` : "";
  if (which && which !== announced) {
    document.getElementById("lv-live").textContent =
      turn.matches(".lv-stopped") ? `Stopped. ${said}` : `Answer: ${said}`;
  }
  announced = which;
}

new MutationObserver((changes) => {
  const changed = (id) => changes.some((change) => change.target.closest?.(id));
  // What scrolls can be scrolled with keys.
  document.querySelectorAll("#lv-call .cm-scroller").forEach((code) => { code.tabIndex = 0; });
  if (changed("#lv-strip")) light_up();  // what the new answer looked at most comes into sight
  const talk = document.getElementById("lv-talk");
  if (changed("#lv-talk")) announce();
  if (changed("#lv-found")) announce_job();
  if (changed("#lv-talk") && following) talk.scrollTop = talk.scrollHeight;
}).observe(document.body, { childList: true, subtree: true });

// The page says so when the demo has ended, or does not answer any more.
function say(words) {
  let line = document.getElementById("lv-gone");
  if (!line) {
    line = Object.assign(document.createElement("p"), { id: "lv-gone" });
    line.setAttribute("role", "alert");
    document.body.prepend(line);
  }
  line.hidden = !words;
  line.textContent = words;
}

const life = new EventSource("longva-alive");
life.addEventListener("end", () => {
  life.close();
  say("The demo has ended. Start it again, then reload this page.");
});
life.addEventListener("open", () => say(""));
life.addEventListener("error", () => say("The demo does not answer. This page tries again."));
addEventListener("pagehide", () => life.close());

const theme = localStorage.getItem("longva-theme");
if (theme) document.body.classList.toggle("dark", theme === "dark");
