/**
 * The microphone, the camera and the screen of this device, for calls.
 *
 * @packageDocumentation
 */
export { Capture, type CaptureEvents, type Devices } from "./media/capture.js";
export { CaptureError, type CaptureFault, type CaptureSource } from "./media/capture-error.js";
