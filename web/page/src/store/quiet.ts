/** What other people at this device, and its history, can see of a call: nothing, unless that is switched on. */
import { effect } from "@preact/signals-core";
import { ring } from "./ringtone.js";
import type { Session } from "./session.js";
import type { SettingsStore } from "./settings.js";

/** The texts that are shown of a call, in the language of the page. */
export interface CallTexts {
  incoming(name: string): string;
  active(name: string): string;
}

const NEUTRAL_TITLE = "Chappe";

/** Shows calls outside of the page while that is switched on. Returns what stops it. */
export function showOutside(session: Session, settings: SettingsStore, texts: CallTexts): () => void {
  const { desk, book } = session;
  let stopNotifying: (() => void) | undefined;
  let stopRinging: (() => void) | undefined;
  const isRinging = () => desk.active.value?.stage.value === "incoming";

  const stopTitle = effect(() => {
    const active = desk.active.value;
    const isShown = settings.value.value.showsCalls && active !== undefined && active.stage.value !== "ended";
    const name = active === undefined ? "" : (book.find(active.contact)?.name ?? "");
    const text = isRinging() ? texts.incoming(name) : texts.active(name);
    document.title = isShown ? text : NEUTRAL_TITLE;
    showMediaSession(isShown ? text : undefined, () => desk.hangUp());
    stopNotifying?.();
    stopNotifying = isShown && isRinging() && document.hidden ? notify(text) : undefined;
  });

  const stopRing = effect(() => {
    const rings = settings.value.value.rings && isRinging();
    if (rings) stopRinging ??= ring();
    else {
      stopRinging?.();
      stopRinging = undefined;
    }
  });

  return () => {
    showMediaSession(undefined, () => {});
    stopTitle();
    stopRing();
    stopRinging?.();
    stopNotifying?.();
  };
}

/** Shows a notification of a call, if the person allows that. Returns what takes it away. */
function notify(text: string): () => void {
  // Some phones have notifications for installed pages alone.
  if (!("Notification" in globalThis) || Notification.permission !== "granted") return () => {};
  const options = { tag: "call", requireInteraction: true };
  try {
    const notification = new Notification(text, options);
    notification.onclick = () => window.focus();
    return () => notification.close();
  } catch {
    // Browsers of phones show those of a service worker alone.
    const shown = navigator.serviceWorker?.getRegistration().then(async (registration) => {
      await registration?.showNotification(text, options);
      return registration;
    });
    return () => {
      void shown?.then(async (registration) => {
        for (const notification of (await registration?.getNotifications({ tag: options.tag })) ?? []) {
          notification.close();
        }
      });
    };
  }
}

function showMediaSession(text: string | undefined, hangUp: () => void): void {
  const { mediaSession } = navigator;
  if (mediaSession === undefined) return;
  mediaSession.metadata = text === undefined ? null : new MediaMetadata({ title: text });
  mediaSession.playbackState = "none";
  try {
    mediaSession.setActionHandler("hangup" as MediaSessionAction, text === undefined ? null : hangUp);
  } catch {
    // This browser knows no such key.
  }
}
