// The dashboard's script: keeps fragments up to date, and asks before anything destructive.
"use strict";

const $ = (id) => document.getElementById(id);

// ---- notices and requests ---------------------------------------------------------------------

function notice(text, good) {
  const box = $("notice");
  box.textContent = text || "";
  box.hidden = !text;
  box.className = good ? "notice good" : "notice bad";
}

async function api(method, url, body) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  let answer;
  try {
    answer = await fetch(url, { method, headers, body });
  } catch {
    throw new Error("The server does not answer. Is it running?");
  }
  const text = await answer.text();
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    // Not JSON: only the status tells something.
  }
  if (!answer.ok) throw new Error((value && value.error) || `The server answered ${answer.status}.`);
  return value;
}

// Runs what a button asks for, once at a time; shows what went wrong. The button is not disabled
// meanwhile: it would lose the focus.
async function attempt(button, work) {
  if (button && button.ariaBusy === "true") return;
  notice("");
  if (button) button.ariaBusy = "true";
  try {
    await work();
  } catch (error) {
    notice(error.message);
  } finally {
    if (button) button.ariaBusy = "false";
    refreshAll();
  }
}

// ---- live fragments ---------------------------------------------------------------------------

const PAUSE = 500; // Milliseconds between two fetches of one fragment.

class Live {
  constructor(section) {
    this.section = section;
    this.kinds = new Set(section.dataset.kinds.split(" "));
    this.busy = false;
    this.again = false;
  }

  wants(event) {
    const device = this.section.dataset.device;
    return this.kinds.has(event.kind) && (!device || event.device === device);
  }

  async refresh() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    this.again = false;
    try {
      const answer = await fetch(this.section.dataset.live);
      if (answer.ok) this.show(await answer.text());
    } catch {
      // The stream notices that the server is away, and refreshes when it is back.
    }
    setTimeout(() => {
      this.busy = false;
      if (this.again) this.refresh();
    }, PAUSE);
  }

  show(html) {
    const focused = this.section.contains(document.activeElement) && document.activeElement.id;
    this.section.innerHTML = html;
    if (focused && $(focused)) $(focused).focus({ preventScroll: true });
    filterRows();
  }
}

const sections = [...document.querySelectorAll("[data-live]")].map((section) => new Live(section));
const refreshAll = () => sections.forEach((live) => live.refresh());

let stream = null;

function status(text, on) {
  $("live").textContent = text;
  $("live").classList.toggle("on", on);
}

function connect() {
  if (stream) return;
  stream = new EventSource("/api/v1/events/stream");
  stream.onopen = () => {
    status("live", true);
    refreshAll();
  };
  stream.onmessage = (message) => {
    const event = JSON.parse(message.data);
    sections.filter((live) => live.wants(event)).forEach((live) => live.refresh());
  };
  stream.onerror = () => {
    status("reconnecting", false);
    // Most errors the browser retries by itself; one that it gave up on is begun anew.
    if (stream.readyState === EventSource.CLOSED) {
      disconnect();
      setTimeout(connect, 3000);
    }
  };
}

function disconnect() {
  if (stream) stream.close();
  stream = null;
}

// A browser keeps few connections to one server: a tab that nobody sees gives its one back.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
addEventListener("pagehide", disconnect);
addEventListener("pageshow", connect);

function ago(millis) {
  const seconds = Math.floor((Date.now() - millis) / 1000);
  if (seconds <= 0) return "now";
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

setInterval(() => {
  for (const time of document.querySelectorAll("time[data-millis]")) {
    time.textContent = ago(Number(time.dataset.millis));
  }
  // The bar of a stage that goes on grows, though nothing happens.
  for (const live of sections) {
    if (!document.hidden && live.section.querySelector("rect.open")) live.refresh();
  }
}, 5000);

function filterRows() {
  const box = $("filter");
  const wanted = box ? box.value.trim().toLowerCase() : "";
  for (const row of document.querySelectorAll("[data-row]")) {
    row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
  }
}
if ($("filter")) $("filter").addEventListener("input", filterRows);

for (const link of document.querySelectorAll("header nav a")) {
  const path = link.getAttribute("href");
  const here = location.pathname;
  const current = path === here || (path === "/" && here.startsWith("/devices/"));
  if (current) link.setAttribute("aria-current", "page");
}

// ---- dialogs ----------------------------------------------------------------------------------

// Opens a dialog; resolves to whether it was confirmed.
function ask(dialog) {
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}

function confirmed(data) {
  $("confirm-title").textContent = data.title;
  $("confirm-text").textContent = data.text;
  $("confirm-ok").textContent = data.confirm;
  return ask($("confirm"));
}

function verified(label, result) {
  if (result.damaged.length === 0) return notice(`${label}: all ${result.chunks} chunks are right.`, true);
  const first = result.damaged[0];
  throw new Error(`${label}: ${result.damaged.length} of ${result.chunks} chunks are damaged, the ` +
    `first at byte ${first.offset}. Remove the image and add it again from its file.`);
}

// What became of a power order for one device.
function switched(result) {
  const text = `${result.label}: ${result.text}`;
  if (["failed", "timeout", "unconfirmed"].includes(result.verdict)) throw new Error(text);
  notice(text, true);
}

document.addEventListener("click", async (click) => {
  const button = click.target.closest("button[data-url], button[data-open]");
  if (!button) return;
  const data = button.dataset;
  if (data.open === "profile") return profile(data);
  if (data.open === "capture") return capture();
  if (data.open === "wipe") return wipe();
  if (data.open) return deploy();
  if (data.confirm && !(await confirmed(data))) return;
  attempt(button, async () => {
    const result = await api(data.method, data.url, data.body);
    if (data.report === "verify") verified(data.label, result);
    if (data.report === "power") switched(result);
    if (data.next) location.assign(data.next);
  });
});

// The disk that the agent would take by itself, as far as the inventory tells.
function automaticDisk(image) {
  const fits = [...$("deploy-disk").options].filter((disk) =>
    disk.value && !disk.disabled && disk.dataset.fixed === "true" &&
    Number(disk.dataset.bytes) >= Number(image.dataset.bytes) &&
    disk.dataset.sectors === image.dataset.sectors);
  return fits.sort((a, b) => Number(a.dataset.bytes) - Number(b.dataset.bytes))[0];
}

function describeDeploy() {
  const image = $("deploy-image").selectedOptions[0];
  const chosen = $("deploy-disk").selectedOptions[0];
  const disk = chosen.value ? chosen : image && automaticDisk(image);
  const label = $("deploy").dataset.label;
  const where = disk ? disk.dataset.text : "the disk that its agent chooses";
  $("deploy-text").textContent = image
    ? `Everything on ${where} of ${label} will be overwritten with ${image.dataset.name}.`
    : "No image can be deployed.";
  $("deploy-ok").textContent = disk ? `Overwrite ${disk.value}` : "Overwrite the disk";
  $("deploy-ok").disabled = !image || image.disabled;
}

async function deploy() {
  const dialog = $("deploy");
  if ($("deploy-image")) describeDeploy();
  if (!(await ask(dialog))) return;
  order(dialog, {
    kind: "deploy",
    image: $("deploy-image").value,
    disk: rule($("deploy-disk").value),
    compare: $("deploy-compare").value,
    grow: $("deploy-grow").checked,
  });
}

// Which disk an order is about.
const rule = (disk) => (disk ? { named: disk } : "auto");

// Makes a task for the device of a dialog.
function order(dialog, action) {
  const body = JSON.stringify({ action, devices: [dialog.dataset.device] });
  attempt(null, async () => {
    const made = await api("POST", "/api/v1/tasks", body);
    const lines = made.power.map((one) => `${one.label}: ${one.text}`);
    if (lines.length) notice(lines.join("; "), true);
  });
}

async function capture() {
  const dialog = $("capture");
  if (!(await ask(dialog))) return;
  const [image_name, note] = [$("capture-name").value.trim(), $("capture-note").value.trim()];
  order(dialog, { kind: "capture", image_name, note, disk: rule($("capture-disk").value) });
}

async function wipe() {
  const dialog = $("wipe");
  // Typed anew each time: nobody wipes by a second click.
  $("wipe-name").value = "";
  $("wipe-ok").disabled = true;
  if (!(await ask(dialog))) return;
  order(dialog, { kind: "wipe", method: $("wipe-method").value, disk: rule($("wipe-disk").value) });
}

if ($("wipe-name")) {
  $("wipe-name").addEventListener("input", () => {
    $("wipe-ok").disabled = $("wipe-name").value.trim() !== $("wipe").dataset.label;
  });
}

// The page may be older than the profile that is chosen now.
function choose(select, value) {
  if (![...select.options].some((option) => option.value === value)) select.add(new Option(value, value));
  select.value = value;
}

// What a device boots. Only what was changed here is sent: somebody else may have changed the rest.
async function profile(now) {
  choose($("profile-own"), now.profile);
  choose($("profile-next"), now.following);
  $("profile-secure").checked = now.secure === "true";
  if (!(await ask($("profile")))) return;
  const change = {};
  if ($("profile-own").value !== now.profile) change.profile = $("profile-own").value;
  if ($("profile-next").value !== now.following) change.next = $("profile-next").value;
  const secure = $("profile-secure").checked;
  if (secure !== (now.secure === "true")) change.secure_boot = secure;
  if (Object.keys(change).length === 0) return;
  const url = `/api/v1/devices/${$("profile").dataset.device}`;
  attempt(null, () => api("PATCH", url, JSON.stringify(change)));
}

for (const id of ["deploy-image", "deploy-disk"]) {
  if ($(id)) $(id).addEventListener("change", describeDeploy);
}

if ($("rename-open")) {
  $("rename-open").addEventListener("click", async () => {
    if (!(await ask($("rename")))) return;
    const body = JSON.stringify({ name: $("rename-name").value.trim() });
    attempt(null, async () => {
      await api("PATCH", `/api/v1/devices/${$("rename").dataset.device}`, body);
      location.reload();
    });
  });
}

connect();
