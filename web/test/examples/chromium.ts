/** Chromium for the tests of the examples, whose pages are used as a person does. */
import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import type { Federation } from "../support/federation.js";

export const CHROMIUM_PATH = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** For a browser without a window, with a microphone that beeps and that every page may use. */
export const CHROMIUM_ARGS = [
  "--no-sandbox",
  "--disable-quic",
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
  "--autoplay-policy=no-user-gesture-required",
  "--auto-select-desktop-capture-source=Entire screen",
  // Loopback is no candidate otherwise, and a machine without a network has no other.
  "--allow-loopback-in-peer-connection",
];

/** Whether Chromium is installed. If not, says which package is missing. */
export function hasChromium(): boolean {
  if (existsSync(CHROMIUM_PATH)) return true;
  console.warn("skipped: an example needs Chromium, which is not installed (Debian: apt install chromium)");
  return false;
}

/** Starts Chromium without a window, with a microphone that beeps and that every page may use. */
export function launchChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: CHROMIUM_PATH, args: [...CHROMIUM_ARGS] });
}

/** Opens an example in a profile of its own. */
export async function openExample(browser: Browser, url: string, { registry, root }: Federation): Promise<Page> {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(30_000);
  page.on("pageerror", (error) => console.error(`page: ${error.stack}`));
  await page.goto(`${url}?${new URLSearchParams({ registry, root })}`);
  return page;
}
