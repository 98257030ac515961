"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { layers: L, heads: H, guesses: K, tokens } = data;
const T = tokens.length;
const NAMES = ["below 1 %", "1 to 5 %", "5 to 20 %", "20 to 50 %", "above 50 %"];
const BOUNDS = [0.01, 0.05, 0.2, 0.5];

// ---- the numbers ----------------------------------------------------------------------------------------------------

const probability = (thousandths) => Math.exp(thousandths / 1000);
const bin = (p) => BOUNDS.filter((bound) => p >= bound).length;
/** A layer's predictions after a token: [{id, p}], the likeliest first. Layer 0 is the embeddings, L the model itself. */
const guesses = (layer, place) =>
  Array.from({ length: K }, (_, k) => {
    const at = (layer * T + place) * K + k;
    return { id: data.lensIds[at], p: probability(data.lensLogProbs[at]) };
  });
/** The probability of the actual next token; the last token has none. */
const next = (layer, place) => probability(data.nextLogProbs[layer * (T - 1) + place]);
const own = (place) => next(L, place - 1);

let weights; // bytes, see `packed` in page.py
const TRIANGLE = (T * (T + 1)) / 2;
const skip = document.getElementById("skip");
const raw = (layer, head, i, j) => (weights[(layer * H + head) * TRIANGLE + (i * (i + 1)) / 2 + j] / 255) ** 2;
/** The weights that token i gives to tokens 0 to i, in one head, or the mean over the layer's heads if head is H. */
function row(layer, head, i) {
  const shares = Array.from({ length: i + 1 }, (_, j) => {
    if (head < H) return raw(layer, head, i, j);
    let sum = 0;
    for (let h = 0; h < H; h++) sum += raw(layer, h, i, j);
    return sum / H;
  });
  if (skip.checked && i > 0) shares[0] = 0;
  return shares;
}

// ---- elements -------------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SPOKEN = { "·": " space ", "↵": " new line ", "⇥": " tab " };
const spoken = (id) =>
  data.labels[id].map(([kind, text]) => (kind === "space" ? [...text].map((c) => SPOKEN[c]).join("") : text)).join("");
function glyphs(id) {
  const shown = document.createDocumentFragment();
  for (const [kind, text] of data.labels[id]) shown.append(kind === "text" ? text : make("span", { class: kind }, text));
  return shown;
}

const percent = (p) => (p < 0.001 ? "<\u00a00.1" : (100 * p).toFixed(p < 0.0995 ? 1 : 0)) + "\u00a0%";

/** A list of {id, p, is}, as bars. */
function bars(entries, kind = "") {
  const list = make("ul", { class: `bars ${kind}` });
  for (const { id, p, is, label, most } of entries) {
    const fill = make("i");
    fill.style.width = `${100 * p}%`;
    const name = make("span", { class: "label", title: spoken(id) }, label ?? glyphs(id));
    const value = make("span", { class: "value" }, most > 0.001 ? `≤\u00a0${percent(most)}` : percent(p));
    const track = make("span", { class: "track", "aria-hidden": "true" }, fill);
    list.append(make("li", is ? { class: "is" } : {}, name, track, value));
  }
  return list;
}

function fill(id, ...children) {
  document.getElementById(id).replaceChildren(...children);
}

/** Lets the user select one button by a click or the arrow keys; up and down move by `width`. */
function choices(box, buttons, width, choose) {
  let now = -1;
  function select(index, focus = false) {
    if (buttons[now]) {
      buttons[now].setAttribute("aria-pressed", "false");
      buttons[now].tabIndex = -1;
    }
    now = index;
    buttons[now].setAttribute("aria-pressed", "true");
    buttons[now].tabIndex = 0;
    if (focus) buttons[now].focus();
    choose(now);
  }
  for (const button of buttons) {
    button.tabIndex = -1;
    button.setAttribute("aria-pressed", "false");
  }
  const index = (event) => buttons.indexOf(event.target.closest("button"));
  box.addEventListener("click", (event) => index(event) >= 0 && select(index(event)));
  box.addEventListener("keydown", (event) => {
    const last = buttons.length - 1;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: width, ArrowUp: -width, Home: -last, End: last };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const to = now + steps[event.key];
    if (event.key === "Home" || event.key === "End") select(event.key === "Home" ? 0 : last, true);
    else if (to >= 0 && to <= last) select(to, true);
  });
  return select;
}

/** The tokens as running text: a button for each, with the line breaks of the text. */
function flow(box, classes, label) {
  const buttons = tokens.map((id, place) => {
    const written = place >= data.prompt ? " written" : "";
    const button = make("button", { class: `token ${classes(place)}${written}`, "aria-label": label(id, place) }, glyphs(id));
    if (place in data.completed) button.append(data.completed[place]);
    box.append(button, ...[...button.textContent].filter((character) => character === "↵").map(() => make("br")));
    return button;
  });
  return buttons;
}

// ---- the text -------------------------------------------------------------------------------------------------------

function drawText() {
  fill("legend", ...NAMES.map((name, b) => make("span", {}, make("i", { class: `p${b}` }), name)));
  const box = document.getElementById("text");
  const kind = (place) => (place ? `p${bin(own(place))}${own(place) < 0.01 ? " surprise" : ""}` : "first");
  const details = (place) => (place ? `probability ${percent(own(place))}, rank ${data.ranks[place]}` : "first token");
  const buttons = flow(box, kind, (id, place) => `${spoken(id)}, ${details(place)}`);
  buttons.push(make("button", { class: "token next", "aria-label": "predicted next token" }, "?"));
  box.append(buttons.at(-1));
  const surprising = tokens.map((_, place) => (place ? own(place) : 1));
  const start = T > 1 ? surprising.indexOf(Math.min(...surprising)) : T;
  choices(box, buttons, 1, showToken)(start);
}

function showToken(place) {
  if (place === 0) {
    const text = "The text starts here, so this token has no probability. All later tokens can attend to it.";
    return fill("text-panel", make("h3", {}, "“", glyphs(tokens[0]), "”"), make("p", {}, text));
  }
  const all = guesses(L, place - 1).map((guess) => ({ ...guess, is: guess.id === tokens[place] }));
  if (place === T) {
    const text = "The text ends here. These are the model's predictions for the next token.";
    return fill("text-panel", make("h3", {}, "Next token"), make("p", {}, text), bars(all));
  }
  const rank = data.ranks[place];
  if (!all.some((guess) => guess.is)) all.push({ id: tokens[place], p: own(place), is: true });
  const author = place >= data.prompt ? "Generated by the model. " : "";
  const best = rank === 1 ? "It was the most likely token." : `${(rank - 1).toLocaleString("en")} tokens were more likely.`;
  const text = `${author}Token ${place + 1} of ${T}, id ${tokens[place]}. Probability ${percent(own(place))}. ${best}`;
  const heading = make("h4", {}, "Alternatives");
  fill("text-panel", make("h3", {}, "“", glyphs(tokens[place]), "”"), make("p", {}, text), heading, bars(all));
}

// ---- the lens -------------------------------------------------------------------------------------------------------

const layerName = (layer) => (layer === 0 ? "embedding" : layer === L ? `layer ${L}, output` : `layer ${layer}`);

function drawLens() {
  const table = document.getElementById("lens");
  const corner = (text) => make("th", { scope: "row" }, text);
  const head = (id) => make("th", { scope: "col", title: spoken(id) }, glyphs(id));
  table.append(make("thead", {}, make("tr", {}, corner("token"), ...tokens.map(head))));
  const body = make("tbody");
  const buttons = [];
  for (let layer = 0; layer <= L; layer++) {
    const cells = tokens.map((_, place) => {
      const [{ id, p }] = guesses(layer, place);
      const label = `${layerName(layer)} after ${spoken(tokens[place])}: ${spoken(id)}, ${percent(p)}`;
      const button = make("button", { "aria-label": label }, glyphs(id));
      buttons.push(button);
      return make("td", {}, button);
    });
    body.append(make("tr", {}, corner(layerName(layer)), ...cells));
  }
  const follows = tokens.map((_, place) => (place + 1 < T ? head(tokens[place + 1]) : make("th", {}, "?")));
  table.append(body, make("tfoot", {}, make("tr", {}, corner("next token"), ...follows)));

  const colour = () => {
    const by = document.querySelector("input[name=lens]:checked").value;
    buttons.forEach((button, index) => {
      const [layer, place] = [Math.floor(index / T), index % T];
      const [{ id, p }] = guesses(layer, place);
      const last = place === T - 1;
      const shown = by === "guess" ? p : last ? 0 : next(layer, place);
      button.className = `p${bin(shown)}${!last && id === tokens[place + 1] ? " right" : ""}`;
    });
  };
  colour();
  for (const input of document.querySelectorAll("input[name=lens]")) input.addEventListener("change", colour);
  // Start at the column whose next token is most likely, among those visible at once.
  const sure = tokens.slice(1, 8).map((_, place) => next(L, place));
  const start = sure.length ? sure.indexOf(Math.max(...sure)) : 0;
  choices(table, buttons, T, (index) => showCell(Math.floor(index / T), index % T))(L * T + start);
}

function showCell(layer, place) {
  const last = place === T - 1;
  const follows = tokens[place + 1];
  const all = guesses(layer, place).map((guess) => ({ ...guess, is: !last && guess.id === follows }));
  if (!last && !all.some((guess) => guess.is)) all.push({ id: follows, p: next(layer, place), is: true });
  const ladder = Array.from({ length: L + 1 }, (_, each) => {
    const label = each === 0 ? "embedding" : `layer ${each}`;
    const id = last ? guesses(L, place)[0].id : follows;
    if (!last) return { id, p: next(each, place), label, is: each === layer };
    const there = guesses(each, place);
    const match = there.find((guess) => guess.id === id); // if absent, it is at most as likely as the last one
    return { id, p: match?.p ?? 0, most: match ? 0 : there.at(-1).p, label, is: each === layer };
  });
  const aim = last ? guesses(L, place)[0].id : follows;
  const track = make("h4", {}, "“", glyphs(aim), last ? "”, the final prediction, by layer" : "”, the actual next token, by layer");
  fill(
    "lens-panel",
    make("h3", {}, "After “", glyphs(tokens[place]), "”"),
    make("p", {}, layer === 0 ? "Before the first layer: the embeddings only." : `Predictions of ${layerName(layer)}.`),
    bars(all),
    track,
    bars(ladder),
  );
}

// ---- attention ------------------------------------------------------------------------------------------------------

const chosen = { layer: 0, head: 0, query: T - 1 };
let ramp; // of 256 colours
const THUMB = Math.min(T, 64);

function makeRamp() {
  const style = getComputedStyle(document.documentElement);
  const [a, b, c] = [0, 1, 2].map((stop) => {
    const hex = style.getPropertyValue(`--heat-${stop}`).trim();
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  });
  const mix = (from, to, share) => from.map((x, k) => Math.round(x + (to[k] - x) * share));
  ramp = Array.from({ length: 256 }, (_, q) => (q < 128 ? mix(a, b, q / 128) : mix(b, c, (q - 128) / 127)));
}
/** Small weights show too: colour follows the square root. */
const heat = (p) => ramp[Math.min(255, Math.round(255 * Math.sqrt(p)))];

function drawThumb(canvas, layer, head) {
  canvas.width = canvas.height = THUMB;
  const largest = new Float32Array(THUMB * THUMB);
  for (let i = 0; i < T; i++) {
    const y = Math.floor((i * THUMB) / T);
    row(layer, head, i).forEach((p, j) => {
      const at = y * THUMB + Math.floor((j * THUMB) / T);
      largest[at] = Math.max(largest[at], p);
    });
  }
  const image = new ImageData(THUMB, THUMB);
  largest.forEach((p, at) => image.data.set([...heat(p), 255], 4 * at));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The weight that is not on the first token, the token itself or the one before: a measure of how much there is to see. */
function interest(layer, head) {
  if (head === H) return -1; // the mean is not a head
  return tokens.reduce((sum, _, i) => sum + Math.max(0, ...row(layer, head, i).slice(1, Math.max(1, i - 1))), 0);
}

const headName = (layer, head) => (head < H ? `layer ${layer + 1}, head ${head + 1}` : `layer ${layer + 1}, mean of its heads`);

function drawMaps() {
  const box = document.getElementById("maps");
  const room = box.parentElement.clientWidth - 70;
  const size = Math.max(26, Math.min(64, Math.floor(room / (H + 1)) - 4));
  box.style.gridTemplateColumns = `auto repeat(${H + 1}, ${size}px)`;
  box.append(make("span", { class: "row" }, ""));
  for (let head = 0; head <= H; head++) box.append(make("span", {}, head < H ? `${head + 1}` : "mean"));
  const buttons = [];
  for (let layer = 0; layer < L; layer++) {
    box.append(make("span", { class: "row" }, `layer ${layer + 1}`));
    for (let head = 0; head <= H; head++) {
      const button = make("button", { "aria-label": headName(layer, head), title: headName(layer, head) }, make("canvas"));
      buttons.push(button);
      box.append(button);
    }
  }
  const redraw = () => {
    makeRamp();
    buttons.forEach((button, at) => drawThumb(button.firstChild, Math.floor(at / (H + 1)), at % (H + 1)));
    drawHead();
  };
  const interests = buttons.map((_, at) => interest(Math.floor(at / (H + 1)), at % (H + 1)));
  makeRamp();
  const text = document.getElementById("attention-text");
  const texts = flow(text, () => "", spoken);
  const query = choices(text, texts, 1, (place) => {
    chosen.query = place;
    text.scrollTop = texts[place].offsetTop - text.clientHeight / 2;
    drawHead();
  });
  query(T - 1);
  choices(box, buttons, H + 1, (at) => {
    Object.assign(chosen, { layer: Math.floor(at / (H + 1)), head: at % (H + 1) });
    drawHead();
  })(interests.indexOf(Math.max(...interests)));
  redraw();
  skip.addEventListener("change", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(drawMap).observe(document.getElementById("map").parentElement);
  document.getElementById("map").addEventListener("pointermove", (event) => {
    const place = placeOf(event);
    if (place !== null && place !== chosen.query) query(place);
  });
  document.getElementById("map").addEventListener("click", (event) => placeOf(event) !== null && query(placeOf(event)));
}

function drawHead() {
  const { layer, head, query } = chosen;
  const name = headName(layer, head);
  fill("head", name[0].toUpperCase() + name.slice(1));
  const seen = row(layer, head, query);
  document.querySelectorAll("#attention-text button").forEach((token, place) => {
    token.style.setProperty("--share", place <= query ? `${Math.round(100 * Math.sqrt(seen[place]))}%` : "0%");
  });
  const order = seen.map((p, place) => ({ p, place, id: tokens[place] })).sort((a, b) => b.p - a.p);
  fill(
    "attention-panel",
    make("h3", {}, "“", glyphs(tokens[query]), "” attends to"),
    make("p", {}, `token ${query + 1} of ${T}`),
    bars(order.slice(0, 8), "heat"),
  );
  const text = `${name}: the weights of ${T} tokens; “${spoken(tokens[query])}” attends most to “${spoken(order[0].id)}”`;
  document.getElementById("map").setAttribute("aria-label", text);
  drawMap();
}

const frame = { left: 0, top: 0, cell: 1 };
function drawMap() {
  const canvas = document.getElementById("map");
  const width = canvas.clientWidth;
  if (!width) return;
  const style = getComputedStyle(document.body);
  const scale = window.devicePixelRatio || 1;
  // Show token labels only if there is room to read them.
  const named = (width - 76) / T >= 11;
  Object.assign(frame, { left: named ? 76 : 0, top: named ? 76 : 0 });
  frame.cell = (width - frame.left - 1) / T;
  const height = frame.top + frame.cell * T + 1;
  Object.assign(canvas, { width: width * scale, height: height * scale });
  canvas.style.aspectRatio = `${width} / ${height}`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = `${Math.min(12, frame.cell * 0.95)}px ${style.fontFamily}`;
  pen.textBaseline = "middle";
  const { left, top, cell } = frame;
  for (let i = 0; i < T; i++) {
    row(chosen.layer, chosen.head, i).forEach((p, j) => {
      pen.fillStyle = `rgb(${heat(p)})`;
      pen.fillRect(left + j * cell, top + i * cell, cell - (cell > 6 ? 1 : -0.5), cell - (cell > 6 ? 1 : -0.5));
    });
    if (!named) continue;
    const label = data.labels[tokens[i]].map(([, text]) => text).join("").slice(0, 10);
    pen.fillStyle = i === chosen.query ? style.getPropertyValue("--focus") : style.color;
    pen.textAlign = "right";
    pen.fillText(label, left - 5, top + (i + 0.5) * cell, left - 5);
    pen.save();
    pen.translate(left + (i + 0.5) * cell, top - 5);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "left";
    pen.fillStyle = style.color;
    pen.fillText(label, 0, 0, top - 5);
    pen.restore();
  }
  pen.strokeStyle = style.getPropertyValue("--focus");
  pen.lineWidth = 2;
  pen.strokeRect(left, top + chosen.query * cell, Math.max(2, (chosen.query + 1) * cell - 1), Math.max(2, cell - 1));
}

function placeOf(event) {
  const box = event.target.getBoundingClientRect();
  const place = Math.floor((event.clientY - box.top - frame.top) / frame.cell);
  return place >= 0 && place < T ? place : null;
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function drawFacts() {
  const facts = [`${L} layers`, `${H} heads each`, T === 1 ? "1 token" : `${T} tokens`];
  if (data.prompt < T) facts[2] += `, the last ${T - data.prompt} generated`;
  if (data.perplexity !== null) {
    const many = data.perplexity < 10 ? data.perplexity.toFixed(1) : Math.round(data.perplexity).toLocaleString("en");
    facts.push(`perplexity ${many}: on average as uncertain as a choice among ${many} equally likely tokens`);
  }
  fill("facts", facts.join(" · "));
}

drawFacts();
drawText();
drawLens();
inflate(data.attention).then((bytes) => {
  weights = bytes;
  drawMaps();
  document.documentElement.dataset.ready = "yes";
});
