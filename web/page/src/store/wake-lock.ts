/** Keeps the screen on during a call: a phone that sleeps stops the page, and with it the call. */
import { effect } from "@preact/signals-core";
import type { Desk } from "./desk.js";

/** Returns what stops it. */
export function keepAwake(desk: Desk): () => void {
  let lock: WakeLockSentinel | undefined;
  const isNeeded = () => desk.active.value !== undefined && !desk.active.value.isOver;

  const update = async () => {
    if (isNeeded() && !document.hidden && (lock === undefined || lock.released)) {
      // Refused while the battery is low, for example. The call goes on.
      lock = await navigator.wakeLock?.request("screen").catch(() => undefined);
    }
    if (!isNeeded()) await lock?.release();
  };
  const stop = effect(() => {
    isNeeded();
    void update();
  });
  // The browser releases it while the page is hidden.
  const shown = () => void update();
  document.addEventListener("visibilitychange", shown);
  return () => {
    stop();
    document.removeEventListener("visibilitychange", shown);
    void lock?.release();
  };
}
