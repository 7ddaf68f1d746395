// What happens in the browser alone: jumping in the player, following it, dark and light.

const player = () => document.getElementById("lv-player");

function jump(seconds) {
  const video = player();
  if (!video) return;
  video.currentTime = seconds;
  video.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function point_at(frame) {
  document.querySelectorAll(".lv-frame").forEach((button) => {
    const here = button.dataset.frame === frame;
    button.classList.toggle("lv-pointed", here);
    if (here) bring_into_sight(button);
  });
}

function bring_into_sight(button) {
  const strip = button.closest("ol");
  const middle = button.offsetLeft - (strip.clientWidth - button.clientWidth) / 2;
  strip.scrollTo({ left: middle, behavior: "smooth" });
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-frame]");
  if (target) {
    point_at(target.dataset.frame);
    if (target.dataset.seconds) jump(Number(target.dataset.seconds));
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
  document.querySelectorAll(".lv-frame[data-seconds]").forEach((button) => {
    button.classList.remove("lv-playing");
    if (Number(button.dataset.seconds) <= now + 0.05) latest = button;
  });
  if (latest) latest.classList.add("lv-playing");
  const line = document.querySelector(".lv-now");
  const duration = Number(document.querySelector(".lv-timeline")?.dataset.duration);
  if (line && duration) line.style.left = `${Math.min(100, (100 * now) / duration)}%`;
}, true);

document.addEventListener("error", (event) => {
  if (event.target !== player()) return;
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
  const best = document.querySelector(".lv-turn:last-child .lv-chip")?.dataset.frame;
  bring_into_sight(document.querySelector(`.lv-frame[data-frame="${best}"]`) ?? lit);
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
  if (changed("#lv-strip")) light_up();  // what the new answer looked at most comes into sight
  const talk = document.getElementById("lv-talk");
  if (changed("#lv-talk")) announce();
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
