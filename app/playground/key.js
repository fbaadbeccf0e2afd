// The API key: in this tab's memory, gone with the tab, in no address and in no snippet.

import { find } from "./dom.js";

const KEPT = "lightmbert-key";
let key = "";

export function currentKey() {
  return key;
}

/** Shows the field, because the server answered 401. */
export function askForKey() {
  find("key-form", HTMLFormElement).hidden = false;
  find("key", HTMLInputElement).focus();
}

/** @param {() => void} onKey what to do once there is one */
export function setUpKey(onKey) {
  const form = find("key-form", HTMLFormElement);
  const field = find("key", HTMLInputElement);
  key = stored() ?? "";
  field.value = key;
  form.hidden = !key;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    store(field.value.trim());
    onKey();
  });
  find("key-forget", HTMLButtonElement).addEventListener("click", () => {
    field.value = "";
    store("");
    field.focus();
  });
}

function stored() {
  try {
    return sessionStorage.getItem(KEPT);
  } catch {
    return null; // storage is switched off: the key lives as long as the page
  }
}

/** @param {string} given */
function store(given) {
  key = given;
  try {
    if (given) sessionStorage.setItem(KEPT, given);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // as above
  }
}
