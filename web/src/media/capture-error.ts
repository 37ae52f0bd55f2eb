/** Why a microphone, a camera or a screen could not be opened. */

/** What a page captures. */
export type CaptureSource = "microphone" | "camera" | "screen";

/**
 * Why a source could not be opened:
 *
 * - `denied`: the person, the browser or the system forbids it. Only its settings change that.
 * - `dismissed`: the person closed the question without an answer. Asking again is allowed.
 * - `none`: there is no such device.
 * - `in-use`: the device exists and cannot be opened, usually because another program uses it.
 * - `insecure`: the page is no secure context, so the browser has no capture at all.
 */
export type CaptureFault = "denied" | "dismissed" | "none" | "in-use" | "insecure";

const TEXTS: Record<CaptureFault, string> = {
  denied: "access is denied",
  dismissed: "the question for access was closed without an answer",
  none: "there is none",
  "in-use": "it cannot be opened; another program may use it",
  insecure: "a page has to be served by https, from this machine, or be a file",
};

/** A source could not be opened. What was open before still is. */
export class CaptureError extends Error {
  override readonly name = "CaptureError";
  constructor(
    readonly source: CaptureSource,
    readonly code: CaptureFault,
    options?: ErrorOptions,
  ) {
    super(`${source}: ${TEXTS[code]}`, options);
  }
}

/** The fault of an error that `getUserMedia` or `getDisplayMedia` has rejected with. */
export async function captureFault(source: CaptureSource, error: unknown): Promise<CaptureFault> {
  switch (error instanceof Error ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return (await isDenied(source, error as Error)) ? "denied" : "dismissed";
    case "NotFoundError":
    case "OverconstrainedError":
      return "none";
    default:
      // `NotReadableError` and `AbortError`. Browsers use others, too, when the hardware fails.
      return "in-use";
  }
}

/** Whether access is denied for good. Both a denial and a closed question are a `NotAllowedError`. */
async function isDenied(source: CaptureSource, error: Error): Promise<boolean> {
  // The person chooses a screen each time, so closing the choice denies nothing. The system's denial has a text of its own.
  if (source === "screen") return /system|permissions policy/i.test(error.message);
  try {
    const { state } = await navigator.permissions.query({ name: source });
    return state === "denied";
  } catch {
    // This browser cannot tell. Asking again does no harm.
    return false;
  }
}
