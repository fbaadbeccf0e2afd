// Puts the page together.

import { classify, describeTask, showTasks, zeroShot } from "./classify.js";
import { find } from "./dom.js";
import { setUpKey } from "./key.js";
import { setUpMode } from "./outcome.js";
import { learnWhatIsServed } from "./served.js";
import { similarity } from "./similarity.js";
import { setUpCopy } from "./snippets.js";
import { setUpStrip } from "./strip.js";
import { setUpTabs } from "./tabs.js";
import { setUpTexts } from "./texts.js";

/** Submits the form of the panel that is open. */
function runOpenPanel() {
  const form = document.querySelector('[role="tabpanel"]:not([hidden]) form');
  if (form instanceof HTMLFormElement) form.requestSubmit();
}

setUpTabs(/** @type {HTMLElement} */ (document.querySelector('[role="tablist"]')));
setUpTexts(runOpenPanel);
for (const mode of [classify, zeroShot, similarity]) setUpMode(mode);
setUpCopy();
setUpKey(runOpenPanel);
find("task", HTMLSelectElement).addEventListener("change", describeTask);
setUpStrip();
void learnWhatIsServed(showTasks);
