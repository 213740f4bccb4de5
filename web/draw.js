/* The page that draws: the form, the address, and what happens when "Draw" is pressed. */

import { Board, COLOURS } from "./board.js";
import { DISTILLED, lacking, load, SAMPLERS } from "./minisd.js";
import { Stage } from "./stage.js";

window.minisd = { load };

const $ = (id) => document.getElementById(id);
const form = $("form"), fields = form.elements;
const MODELS = { words: "mini", sketch: "mini", inpaint: "mini-inpaint" };
const TITLES = { words: "Draw with words", sketch: "Draw from a sketch", inpaint: "Fill a hole" };
const OFFERED = Object.keys(SAMPLERS).filter((name) => !DISTILLED.includes(name));
const SURPRISES = ["a red apple on a blue background", "a 3d render of a robot", "a cartoon of a fox",
  "a sticker of a rocket on a yellow background", "a flat icon of a lion", "a cup of coffee on a pink background"];

const models = {}; // name → the promise of a model
let board = null;
let words = null; // what the model knows: { things, styles, …, known }
let stages = [];
let running = null; // the AbortController of the drawing in progress

// --- the form and the address ---------------------------------------------------------------------------------

/** Every setting that tells one picture from another, for the address; what was sketched stays here. */
function writeAddress() {
  const idle = { words: ["strength"] }[fields.mode.value] ?? [];
  if (fields.compare.value !== "prompt") idle.push("prompt2");
  if (fields.compare.value !== "guidance") idle.push("guidance2");
  const told = [...new FormData(form)].filter(([name, value]) =>
    typeof value === "string" && !idle.includes(name) && (value !== "" || name === "prompt"));
  history.replaceState(null, "", `#${new URLSearchParams(told)}`);
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of given) {
    if (fields[name] && name !== "scheduler") fields[name].value = value;
  }
  if (OFFERED.includes(given.get("scheduler"))) fields.scheduler.value = given.get("scheduler");
  return given.has("prompt");
}

/** Show what belongs to the chosen mode and comparison, and the number beside each slider. */
function refresh() {
  const mode = fields.mode.value, compare = fields.compare.value;
  document.querySelector("h1").textContent = TITLES[mode];
  $("board-section").hidden = mode === "words";
  $("board-title").textContent = mode === "inpaint" ? "Brush over what is to be painted anew" : "Your sketch";
  $("colours").hidden = mode === "inpaint";
  $("take").hidden = !stages.length;
  board.masking = mode === "inpaint";
  board.show();
  $("other-prompt").hidden = compare !== "prompt";
  $("other-guidance").hidden = compare !== "guidance";
  for (const slider of form.querySelectorAll(".slider")) {
    slider.querySelector("output").textContent = slider.querySelector("input").value;
  }
  $("how").href = { sketch: "09_image_to_image.html", inpaint: "10_inpainting.html" }[mode]
    ?? (compare === "guidance" ? "08_guidance.html" : !$("attention").hidden ? "06_unet.html" : "00_first_picture.html");
  hint();
}

/** A gentle word where the prompt has words that the model never heard. */
function hint() {
  const strange = words ? (fields.prompt.value.toLowerCase().match(/\p{L}+/gu) ?? []).filter((w) => !words.known.has(w)) : [];
  $("unknown").textContent = strange.length === 0 ? ""
    : `This small model has never heard “${[...new Set(strange)].slice(0, 3).join("”, “")}”, and will guess. It knows the words below.`;
}

function suggest() {
  const pick = (list) => list[Math.floor(Math.random() * list.length)];
  const ideas = words ? Array.from({ length: 5 }, () => pick(words.prompts)) : SURPRISES.slice(0, 4);
  $("suggestions").replaceChildren(...ideas.map((idea) => button(idea, () => {
    fields.prompt.value = idea;
    refresh();
    fields.prompt.focus();
  })), button("more …", suggest));
}

function button(text, onclick) {
  return Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick });
}

// --- drawing --------------------------------------------------------------------------------------------------

function say(text) {
  $("status").textContent = text;
}

function progress(share) {
  $("progress").hidden = share === null;
  if (share !== null) $("progress").value = share;
}

const megabytes = (bytes) => (bytes / 2 ** 20).toFixed(bytes < 2 ** 23 ? 1 : 0);

function model(name) {
  models[name] ??= load(name, { onProgress: ({ loaded, total }) => {
    say(`Fetching the model, once: ${megabytes(loaded)} of ${megabytes(total)} MB`);
    progress(loaded / total);
  } }).catch((error) => {
    delete models[name];
    throw error;
  });
  return models[name];
}

/** The drawings that the form asks for: one, or two to compare. */
function wanted() {
  const { prompt, prompt2, guidance, guidance2, compare } = Object.fromEntries(new FormData(form));
  const one = { prompt, guidance: Number(guidance), caption: prompt || "(no words)" };
  if (compare === "prompt") return [one, { ...one, prompt: prompt2, caption: prompt2 || "(no words)" }];
  if (compare === "guidance") {
    return [{ ...one, caption: `guidance ${guidance}` }, { ...one, guidance: Number(guidance2), caption: `guidance ${guidance2}` }];
  }
  return [one];
}

async function draw(sd, { prompt, guidance }, stage, options) {
  const { mode, strength } = Object.fromEntries(new FormData(form));
  const shared = { ...options, guidance, onStep: (step) => {
    stage.add(step);
    say(`Step ${step.step} of ${step.steps}`);
    progress(step.step / step.steps);
  } };
  if (mode === "words") return sd.textToImage(prompt, shared);
  const { image, mask } = board.read(sd.side);
  if (mode === "sketch") return sd.imageToImage(prompt, image, { ...shared, strength: Number(strength) });
  return sd.inpaint(prompt, image, mask, { ...shared, strength: Number(strength) });
}

async function onDraw() {
  if (running) return;
  if (fields.mode.value === "inpaint" && board.isEmpty) {
    return complain("Brush over a part of the picture first: that part is painted anew.");
  }
  complain("");
  writeAddress();
  running = new AbortController();
  $("draw").disabled = true;
  $("stop").hidden = false;
  $("stop").focus();
  say("Waking the model …");
  $("stage").scrollIntoView({ block: "nearest" }); // on a phone it lies below the form
  try {
    const sd = await model(MODELS[fields.mode.value]);
    const jobs = wanted();
    $("pictures").replaceChildren();
    for (const part of ["steps", "attention", "after"]) $(part).hidden = true;
    stages = [];
    const began = performance.now();
    for (const job of jobs) {
      const stage = new Stage($("pictures"), job.caption, sd.side);
      stages.push(stage);
      stage.finish(await draw(sd, job, stage, { seed: Number(fields.seed.value), steps: Number(fields.steps.value),
        negativePrompt: fields.negative.value, scheduler: fields.scheduler.value || null, preview: true,
        attention: true, signal: running.signal }));
    }
    finished(sd, jobs, (performance.now() - began) / 1000);
  } catch (error) {
    if (error.name === "Stopped") say("Stopped.");
    else {
      say("");
      complain(error.message);
    }
  }
  running = null;
  progress(null);
  $("draw").disabled = false;
  $("stop").hidden = true;
  $("draw").focus({ preventScroll: true });
}

function complain(sentence) {
  $("problem").textContent = sentence;
  $("problem").hidden = !sentence;
}

function finished(sd, jobs, seconds) {
  const count = stages[0].steps.length;
  say(`Drawn in ${seconds.toFixed(1)} s, seed ${fields.seed.value}.`);
  const scrub = $("scrub");
  [scrub.max, scrub.value] = [count, count];
  $("strip").replaceChildren(...Array.from({ length: count }, (_, i) => {
    const canvas = stages[0].thumbnail(i + 1);
    canvas.onclick = () => { scrub.value = i + 1; onScrub(); };
    return canvas;
  }));
  $("steps").hidden = false;
  showWords(sd, jobs[0].prompt);
  $("after").hidden = false;
  $("save").href = stages[0].picture.toDataURL("image/png");
  onScrub();
  refresh();
}

function onScrub() {
  const n = Number($("scrub").value);
  for (const stage of stages) stage.show(n);
  const strip = $("strip");
  [...strip.children].forEach((canvas, i) => canvas.classList.toggle("now", i + 1 === n));
  strip.scrollLeft = strip.children[n - 1].offsetLeft - strip.offsetLeft - strip.clientWidth / 2;
  $("scrub").parentElement.querySelector("output").textContent = `${n} / ${$("scrub").max}`;
  attend();
}

// --- attention ------------------------------------------------------------------------------------------------

/** A button for each word, which knows its tokens' places among the 77. */
function showWords(sd, prompt) {
  let place = 1; // after the start token
  const found = prompt.trim().split(/\s+/).filter(Boolean).map((word) => {
    const length = sd.tokenizer.encode(word).length;
    const tokens = Array.from({ length }, (_, i) => place + i);
    place += length;
    return { word, tokens };
  });
  $("words").replaceChildren(...found.map(({ word, tokens }) => {
    const chip = button(word, () => {
      const on = chip.getAttribute("aria-pressed") !== "true";
      for (const other of $("words").children) other.setAttribute("aria-pressed", "false");
      chip.setAttribute("aria-pressed", String(on));
      attend();
    });
    chip.setAttribute("aria-pressed", "false");
    chip.tokens = tokens;
    return chip;
  }));
  $("attention").hidden = !sd.layers.length || !found.length;
}

function attend() {
  const chip = [...$("words").children].find((one) => one.getAttribute("aria-pressed") === "true");
  stages[0]?.attend(chip?.tokens ?? [], Number($("scrub").value));
}

// --- the beginning --------------------------------------------------------------------------------------------

async function begin() {
  fields.scheduler.append(new Option("the model's own", ""), ...OFFERED.map((name) => new Option(name)));
  board = new Board($("board"));
  for (const [name, value] of Object.entries(COLOURS)) {
    const chip = button("", () => choose(chip, value));
    chip.style.background = value;
    chip.title = chip.ariaLabel = name;
    chip.setAttribute("role", "radio");
    chip.setAttribute("aria-checked", String(value === board.colour));
    $("colours").append(chip);
  }
  const linked = readAddress();
  if (!linked) fields.prompt.value = SURPRISES[0];
  if (matchMedia("(max-width: 860px)").matches) document.querySelector("details").open = false;
  listen();
  refresh();
  suggest();
  const sentence = lacking();
  if (sentence) {
    $("draw").disabled = true;
    return complain(sentence);
  }
  await learnWords();
  if (linked && fields.mode.value === "words") onDraw();
}

function choose(chip, value) {
  for (const other of $("colours").children) other.setAttribute("aria-checked", String(other === chip));
  board.colour = value;
}

/** What the model knows, and which guidance suits it. */
async function learnWords() {
  const get = (path) => fetch(path).then((file) => (file.ok ? file.json() : null)).catch(() => null);
  const [known, index] = await Promise.all([get("models/mini/words.json"), get("models/mini/model_index.json")]);
  if (known) {
    words = { ...known, known: new Set(known.known) };
    suggest();
    hint();
  }
  const scale = String(index?._guidance_scale ?? defaults.guidance);
  if (fields.guidance.value === defaults.guidance) fields.guidance.value = scale;
  defaults.guidance = scale;
  refresh();
}

function listen() {
  form.addEventListener("submit", (event) => { event.preventDefault(); onDraw(); });
  form.addEventListener("input", refresh);
  $("stop").onclick = () => running?.abort();
  $("dice").onclick = () => { fields.seed.value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000; };
  $("clear").onclick = () => board.clear();
  $("brush").oninput = () => { board.size = Number($("brush").value); };
  $("take").onclick = () => board.put(stages[0].picture);
  $("upload").onchange = async ({ target }) => {
    try {
      if (target.files[0]) board.put(await createImageBitmap(target.files[0]));
    } catch {
      complain("That file is not a picture that this browser can open.");
    }
    target.value = "";
  };
  $("scrub").oninput = onScrub;
  $("share").onclick = async () => {
    writeAddress();
    try {
      await navigator.clipboard.writeText(location.href); // which only https and localhost have
      say("The link is copied: it opens exactly this picture.");
    } catch {
      say("The address of this page is the link: it opens exactly this picture.");
    }
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    if (event.key === "Escape") running?.abort();
  });
  window.addEventListener("hashchange", () => { if (readAddress()) { refresh(); onDraw(); } });
}

const defaults = Object.fromEntries([...new FormData(form)]);
begin();
