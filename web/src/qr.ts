/**
 * QR codes: drawing one, and reading one from a camera. The libraries are loaded when they are needed.
 *
 * @packageDocumentation
 */

/** The part of `BarcodeDetector` that is used. */
interface Detector {
  detect(source: CanvasImageSource): Promise<{ rawValue: string }[]>;
}

declare const BarcodeDetector:
  | { new (options: { formats: string[] }): Detector; getSupportedFormats(): Promise<string[]> }
  | undefined;

/** An SVG image of a QR code with this text. Of `CHAPPE:…` it is at most of version 10. */
export async function qrSvg(text: string): Promise<string> {
  const { default: encodeQR } = await import("qr");
  return encodeQR(text, "svg", { ecc: "medium" });
}

/** Reads QR codes from this video until one is seen. Rejects with the signal's reason if that aborts first. */
export async function scanQr(video: HTMLVideoElement, signal: AbortSignal): Promise<string> {
  const detect = await detector();
  for (;;) {
    signal.throwIfAborted();
    const text = video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA ? await detect(video) : undefined;
    if (text !== undefined) return text;
    await new Promise((resolve) => setTimeout(resolve, SCAN_PAUSE));
  }
}

/** The pause between two frames that are read, in milliseconds: reading one takes up to a hundred. */
const SCAN_PAUSE = 100;

async function detector(): Promise<(video: HTMLVideoElement) => Promise<string | undefined>> {
  if (typeof BarcodeDetector !== "undefined" && (await BarcodeDetector.getSupportedFormats()).includes("qr_code")) {
    const native = new BarcodeDetector({ formats: ["qr_code"] });
    return async (video) => (await native.detect(video))[0]?.rawValue;
  }
  const { default: decodeQR } = await import("qr/decode.js");
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  return (video) => {
    if (context === null) return Promise.resolve(undefined);
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    context.drawImage(video, 0, 0);
    try {
      return Promise.resolve(decodeQR(context.getImageData(0, 0, canvas.width, canvas.height)));
    } catch {
      // No code in this frame.
      return Promise.resolve(undefined);
    }
  };
}
