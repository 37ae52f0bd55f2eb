/** Starts the page. */
import { effect } from "@preact/signals";
import { render } from "preact";
import { App } from "./store/app.js";
import { parseFragment } from "./store/federation.js";
import { listenForPanic } from "./store/panic.js";
import { showOutside } from "./store/quiet.js";
import { keepAwake } from "./store/wake-lock.js";
import { chosenLanguage, direction, language, loadLanguage, t } from "./texts/texts.js";
import { AppContext } from "./ui/context.js";
import { Page } from "./ui/page.js";

/** Set by the build: whether the page has a service worker. The one file has none. */
declare const HAS_WORKER: boolean;

const fragment = parseFragment(location.hash);
const app = new App(fragment);

/** What the address named is not kept in the bar and the history, except for the name of a profile. */
function hideFragment(): void {
  const rest = fragment.profile === "" ? "" : `#profile=${fragment.profile}`;
  history.replaceState(null, "", `${location.pathname}${location.search}${rest}`);
}
// A federation stays there until it is used, so that the page can be loaded again. A link has a code in it.
if (fragment.link !== undefined) hideFragment();
effect(() => {
  if (app.session.value !== undefined) hideFragment();
});

effect(() => {
  const { theme } = app.settings.value.value;
  const root = document.documentElement;
  root.lang = language.value;
  root.dir = direction.value;
  if (theme === "system") delete root.dataset.theme;
  else root.dataset.theme = theme;
});

effect(() => {
  chosenLanguage.value = app.settings.value.value.language;
  loadLanguage().catch(reportError);
});

effect(() => {
  const session = app.session.value;
  if (session === undefined) return;
  const stopShowing = showOutside(session, app.settings, {
    incoming: (name) => t("callFrom", { name }),
    active: (name) => t("callWith", { name }),
  });
  const letSleep = keepAwake(session.desk);
  return () => {
    stopShowing();
    letSleep();
  };
});

// A link that is pasted into the bar of an open page does not load it again.
addEventListener("hashchange", () => {
  const { link } = parseFragment(location.hash);
  if (link === undefined) return;
  hideFragment();
  const session = app.session.value;
  if (session === undefined) app.link.value = link;
  else session.offerLink(link);
});

listenForPanic(app, () => ({ title: t("neutralTitle"), text: t("neutralText") }));

// Without a database, as in some private windows, the page still says what it needs.
await app.load().catch(reportError);
await loadLanguage().catch(reportError);
const root = document.querySelector("#page");
if (root !== null) {
  root.replaceChildren();
  render(
    <AppContext.Provider value={app}>
      <Page />
    </AppContext.Provider>,
    root,
  );
}

if (HAS_WORKER && "serviceWorker" in navigator) {
  navigator.serviceWorker.register("./worker.js").catch(() => undefined);
}
