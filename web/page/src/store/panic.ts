/** The panic key: Escape twice ends the call, shows a page that says nothing, and wipes behind it. */
import type { App } from "./app.js";

/** The longest pause between the two presses, in milliseconds. */
const WITHIN = 600;

/** What the neutral page says: that of a server without this page. */
export interface NeutralPage {
  readonly title: string;
  readonly text: string;
}

/** Listens for the panic key. Another tab that wipes, for whatever reason, makes this one neutral, too. */
export function listenForPanic(app: App, neutral: () => NeutralPage): void {
  let last = Number.NEGATIVE_INFINITY;
  const handle = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || event.repeat) return;
    const isSecond = event.timeStamp - last < WITHIN;
    last = event.timeStamp;
    if (!isSecond) return;
    stopListening();
    event.stopImmediatePropagation();
    showNeutral(neutral());
    app.wipe().catch(() => undefined);
  };
  const stopListening = () => removeEventListener("keydown", handle, { capture: true });
  addEventListener("keydown", handle, { capture: true });
  app.wipes.onmessage = () => {
    // Another tab may begin a new profile, which this one must not wipe.
    stopListening();
    showNeutral(neutral());
    app.leave();
  };
}

/** Shows the neutral page in place of this one. */
function showNeutral({ title, text }: NeutralPage): void {
  const heading = document.createElement("h1");
  heading.textContent = title;
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  const page = document.createElement("main");
  page.className = "neutral";
  page.append(heading, paragraph);
  document.documentElement.dataset.theme = "light";
  document.body.replaceChildren(page);
  document.title = title;
  for (const link of document.querySelectorAll("link[rel~='icon'], link[rel='manifest']")) link.remove();
  history.replaceState(null, "", location.href.replace(/#.*/, ""));
}
