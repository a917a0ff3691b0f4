// Uploads an image. Uses what app.js has: $, api, attempt.
"use strict";

function megabytes(bytes) {
  return `${Math.round(bytes / 1e6)} MB`;
}

function nameOf(file) {
  const base = file.name.replace(/\.(gz|xz|zst|bz2)$/i, "").replace(/\.(img|raw|bin|dd|iso)$/i, "");
  return base.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64);
}

// XMLHttpRequest, because fetch does not tell how far an upload is.
function send(name, note, file) {
  const request = new XMLHttpRequest();
  const bar = $("upload-progress");
  request.upload.onprogress = (progress) => {
    if (progress.lengthComputable) bar.value = progress.loaded / progress.total;
    $("upload-text").textContent = progress.loaded === progress.total
      ? "Sent. The server makes it durable."
      : `${megabytes(progress.loaded)} of ${megabytes(progress.total)} sent`;
  };
  $("upload-stop").onclick = () => request.abort();
  const done = new Promise((resolve, reject) => {
    request.onload = () => {
      let value = null;
      try {
        value = JSON.parse(request.responseText);
      } catch {
        // Not JSON: only the status tells something.
      }
      if (request.status === 201) return resolve(value);
      reject(new Error((value && value.error) || `The server answered ${request.status}.`));
    };
    request.onerror = () => reject(new Error("The upload was cut off. Nothing of it was kept."));
    request.onabort = () => reject(new Error("The upload was stopped. Nothing of it was kept."));
  });
  request.open("PUT", `/api/v1/images/${encodeURIComponent(name)}?note=${encodeURIComponent(note)}`);
  request.send(file);
  return done;
}

async function upload(name, note, file) {
  $("upload-progress").hidden = $("upload-stop").hidden = false;
  try {
    const image = await send(name, note, file);
    $("upload-text").textContent = `${image ? `${image.name}@${image.version}` : name} is here.`;
    $("upload").reset();
  } catch (error) {
    $("upload-text").textContent = "";
    throw error;
  } finally {
    $("upload-progress").hidden = $("upload-stop").hidden = true;
    $("upload-progress").value = 0;
  }
}

const input = $("upload-file");
const drop = $("drop");
input.addEventListener("change", () => {
  if (input.files[0] && !$("upload-name").value) $("upload-name").value = nameOf(input.files[0]);
});
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  input.files = event.dataTransfer.files;
  input.dispatchEvent(new Event("change"));
});
$("upload").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt($("upload-ok"), () => upload($("upload-name").value, $("upload-note").value, input.files[0]));
});
addEventListener("beforeunload", (event) => {
  if (!$("upload-stop").hidden) event.preventDefault();
});
