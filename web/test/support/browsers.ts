/** Real browsers: Debian's Chromium and Firefox, with a page that is served on loopback. */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import type { BrowserContext } from "playwright-core";
import type { BrowserContext as FirefoxContext } from "puppeteer-core";
import type { Steps } from "../page/index.js";
import { eventually, PATIENCE } from "./federation.js";
import type { Network } from "./network.js";

/** A browser for the tests. */
export type BrowserName = "chromium" | "firefox";

export const PATHS: Record<BrowserName, string> = {
  chromium: process.env.CHROMIUM ?? "/usr/bin/chromium",
  firefox: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
};

/** Firefox runs no `AudioContext` without a sound device: this server plays one into nothing. */
const PULSEAUDIO = "/usr/bin/pulseaudio";

/** Whether a browser is installed. If not, says which package is missing. */
function isInstalled(browser: BrowserName): boolean {
  const packages = browser === "chromium" ? ["chromium"] : ["firefox-esr", "pulseaudio"];
  const paths = browser === "chromium" ? [PATHS.chromium] : [PATHS.firefox, PULSEAUDIO];
  const missing = packages.filter((_, at) => !existsSync(paths[at] as string));
  if (missing.length === 0) return true;
  console.warn(`skipped: ${browser} needs packages that are not installed (Debian: apt install ${missing.join(" ")})`);
  return false;
}

/** The browsers that are installed. */
export function installedBrowsers(): BrowserName[] {
  return (["chromium", "firefox"] as const).filter(isInstalled);
}

/** A page, whatever browser shows it. */
export interface Tab {
  /** Runs a step of the page and returns its result. */
  run<Name extends keyof Steps>(
    name: Name,
    ...args: Parameters<Steps[Name]>
  ): Promise<Awaited<ReturnType<Steps[Name]>>>;
  /** Loads the page again, as a person does. */
  reload(): Promise<void>;
  /** Opens the page a second time in the same profile. */
  sibling(): Promise<Tab>;
}

/** A running browser. */
export interface Browser {
  /** Opens the page in a profile of its own. Its clock is `clockOffset` milliseconds off. */
  open(clockOffset?: number): Promise<Tab>;
  /** Closes all pages: even one without a client costs time, by its timers and its sound. */
  closeTabs(): Promise<void>;
  close(): Promise<void>;
}

/** The page of the tests. */
export interface Page {
  readonly url: string;
  /** Answers a request of a path, for a browser that does not reach `url`. */
  respond(path: string): { readonly contentType: string; readonly body: string };
  close(): void;
}

/** Serves a page of this script on loopback, and the worker of the tests beside it. */
export async function servePage(script = "test/page/index.ts"): Promise<Page> {
  const { outputFiles } = await build({
    entryPoints: [
      { in: script, out: "index" },
      { in: "test/page/worker.ts", out: "worker" },
    ],
    bundle: true,
    format: "esm",
    splitting: true,
    outdir: "out",
    write: false,
    target: "es2022",
    loader: { ".json": "json" },
  });
  const files = new Map(outputFiles.map((file) => [file.path.replace(/^.*\/out/, ""), file.text]));
  const html = '<!doctype html><meta charset="utf-8"><script type="module" src="/index.js"></script>';
  const respond = (path: string) => {
    const script = files.get(path);
    return { contentType: script === undefined ? "text/html" : "text/javascript", body: script ?? html };
  };
  const server = createServer((request, response) => {
    const { contentType, body } = respond(request.url ?? "");
    response.setHeader("content-type", contentType);
    response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/`, respond, close: () => server.close() };
}

/** Sets the page's clock off, before any script of it runs. */
function shiftClock(offset: number): void {
  const now = Date.now.bind(Date);
  Date.now = () => now() + offset;
}

/** Starts a browser without a window, whose person allows the microphone and the camera, or denies them. */
export async function launch(name: BrowserName, url: string, areMediaAllowed = true): Promise<Browser> {
  return name === "chromium" ? launchChromium(url, { areMediaAllowed }) : launchFirefox(url, areMediaAllowed);
}

/** Starts Chromium in a network that does not reach the page's server: its requests are answered from outside. */
export async function launchInNetwork(network: Network, namespace: string, page: Page): Promise<Browser> {
  const program = network.programIn(namespace, PATHS.chromium);
  return launchChromium(page.url, { areMediaAllowed: true, program, respond: page.respond });
}

/** Starts Chromium with the page at a URL of https on the internet. No server has it: Playwright answers its requests. */
export async function launchWithHttps(page: Page): Promise<Browser> {
  return launchChromium("https://chappe.example/", { areMediaAllowed: true, respond: page.respond });
}

/** How Chromium is started. */
interface ChromiumOptions {
  readonly areMediaAllowed: boolean;
  readonly program?: string;
  readonly respond?: Page["respond"];
}

/** The tone of Chromium's microphone, in hertz. */
export const MICROPHONE_TONE = 880;

/** A file with that tone, which Chromium plays in a loop. */
function toneFile(): string {
  const path = join(tmpdir(), `chappe-tone-${MICROPHONE_TONE}.wav`);
  const rate = 48_000;
  // Four times a second on and off, as the browser suppresses a steady tone as noise.
  const samples = Int16Array.from({ length: rate }, (_, at) => {
    const isOn = Math.floor((8 * at) / rate) % 2 === 0;
    return isOn ? 8_000 * Math.sin((2 * Math.PI * MICROPHONE_TONE * at) / rate) : 0;
  });
  const header = Buffer.alloc(44);
  header.write("RIFF", 0);
  header.writeUInt32LE(36 + samples.byteLength, 4);
  header.write("WAVEfmt ", 8);
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(1, 22);
  header.writeUInt32LE(rate, 24);
  header.writeUInt32LE(2 * rate, 28);
  header.writeUInt16LE(2, 32);
  header.writeUInt16LE(16, 34);
  header.write("data", 36);
  header.writeUInt32LE(samples.byteLength, 40);
  writeFileSync(path, Buffer.concat([header, Buffer.from(samples.buffer)]));
  return path;
}

interface EvaluatingPage {
  evaluate(run: (call: [string, unknown[]]) => unknown, call: [string, unknown[]]): Promise<unknown>;
}

function tabOf(page: EvaluatingPage, load: () => Promise<unknown>, sibling: () => Promise<Tab>): Tab {
  return {
    run: (name, ...args) =>
      page.evaluate(
        ([step, values]) =>
          (globalThis as unknown as { steps: Record<string, (...values: unknown[]) => unknown> }).steps[step]?.(
            ...values,
          ),
        [name, args],
      ) as never,
    reload: async () => {
      await load();
    },
    sibling,
  };
}

async function launchChromium(url: string, options: ChromiumOptions): Promise<Browser> {
  const { areMediaAllowed, program = PATHS.chromium, respond } = options;
  const { chromium } = await import("playwright-core");
  const args = [
    "--disable-quic",
    "--autoplay-policy=no-user-gesture-required",
    // Loopback is no candidate otherwise, and a machine without a network has no other.
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    // A microphone with a tone, a camera with a test picture, and the whole screen.
    "--use-fake-device-for-media-stream",
    `--use-file-for-fake-audio-capture=${toneFile()}`,
    "--auto-select-desktop-capture-source=Entire screen",
    ...(areMediaAllowed ? ["--use-fake-ui-for-media-stream"] : ["--deny-permission-prompts"]),
  ];
  const browser = await chromium.launch({ executablePath: program, args: [...args, "--no-sandbox"] });
  const open = async (context: BrowserContext, clockOffset: number): Promise<Tab> => {
    const page = await context.newPage();
    if (respond !== undefined) {
      await page.route(`${url}**`, (route) => route.fulfill(respond(new URL(route.request().url()).pathname)));
    }
    await page.addInitScript(shiftClock, clockOffset);
    page.on("pageerror", (error) => console.error(`page: ${error.stack}`));
    const isReady = "globalThis.steps !== undefined";
    await page.goto(url);
    await page.waitForFunction(isReady);
    const load = async () => {
      await page.reload();
      await page.waitForFunction(isReady);
    };
    return tabOf(page as unknown as EvaluatingPage, load, () => open(context, clockOffset));
  };
  return {
    open: async (clockOffset = 0) => open(await browser.newContext(), clockOffset),
    closeTabs: async () => {
      await Promise.all(browser.contexts().map((context) => context.close()));
    },
    close: () => browser.close(),
  };
}

/** Starts a sound server without a device. Returns the variable by which a browser finds it, and how to stop it. */
export async function startSound(): Promise<{ env: Record<string, string>; stop(): void }> {
  const folder = mkdtempSync(join(tmpdir(), "chappe-sound-"));
  const socket = join(folder, "native");
  const modules = ["-L", "module-null-sink", "-L", `module-native-protocol-unix socket=${socket} auth-anonymous=1`];
  const server = spawn(PULSEAUDIO, ["-n", "--daemonize=no", "--exit-idle-time=-1", ...modules], {
    stdio: "ignore",
    env: { ...process.env, HOME: folder, XDG_RUNTIME_DIR: folder },
  });
  await eventually("the sound server is up", () => existsSync(socket));
  const stop = () => {
    server.kill();
    rmSync(folder, { recursive: true, force: true });
  };
  return { env: { PULSE_SERVER: `unix:${socket}` }, stop };
}

async function launchFirefox(url: string, areMediaAllowed: boolean): Promise<Browser> {
  const puppeteer = await import("puppeteer-core");
  const sound = await startSound();
  const browser = await puppeteer.launch({
    browser: "firefox",
    executablePath: PATHS.firefox,
    headless: true,
    env: { ...process.env, ...sound.env },
    extraPrefsFirefox: {
      "media.autoplay.default": 0,
      "media.autoplay.blocking_policy": 0,
      "media.autoplay.block-webaudio": false,
      "media.navigator.streams.fake": true,
      "media.navigator.permission.disabled": areMediaAllowed,
      "permissions.default.microphone": areMediaAllowed ? 1 : 2,
      "permissions.default.camera": areMediaAllowed ? 1 : 2,
      "media.peerconnection.ice.loopback": true,
      "media.peerconnection.ice.obfuscate_host_addresses": false,
    },
  });
  const open = async (context: FirefoxContext, clockOffset: number): Promise<Tab> => {
    const page = await context.newPage();
    await page.evaluateOnNewDocument(shiftClock, clockOffset);
    // Firefox reports requests that failed or were given up here, too.
    page.on("pageerror", (error) => {
      if (!/establish a connection|was interrupted|Cross-Origin/.test(String(error))) console.error(`page: ${error}`);
    });
    const isReady = "globalThis.steps !== undefined";
    await page.goto(url);
    await page.waitForFunction(isReady);
    const load = async () => {
      await page.reload();
      await page.waitForFunction(isReady);
    };
    return tabOf(page as unknown as EvaluatingPage, load, () => open(context, clockOffset));
  };
  const contexts: FirefoxContext[] = [];
  return {
    open: async (clockOffset = 0) => {
      const context = await browser.createBrowserContext();
      contexts.push(context);
      return open(context, clockOffset);
    },
    closeTabs: async () => {
      await Promise.all(contexts.splice(0).map((context) => context.close()));
    },
    close: async () => {
      await browser.close();
      sound.stop();
    },
  };
}

/** Waits until a step of a page returns what is wanted. */
export async function until<T>(
  what: string,
  get: () => Promise<T>,
  isWanted: (value: T) => boolean,
  patience = PATIENCE,
): Promise<T> {
  const deadline = Date.now() + patience;
  for (;;) {
    const value = await get();
    if (isWanted(value)) return value;
    if (Date.now() > deadline) throw new Error(`never came true: ${what}; last: ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** What a page hears. */
export interface Sound {
  /** The loudest frequency. */
  readonly hertz: number;
  /** Its level: that of a sound is above -60. */
  readonly decibels: number;
}

/** Whether there is any sound. */
export function isAudible({ decibels }: Sound): boolean {
  return decibels > -60;
}

/** Waits until a page hears what is wanted. */
export async function untilHeard(tab: Tab, isWanted: (sound: Sound) => boolean = isAudible): Promise<void> {
  await until(
    "the sound",
    () => tab.run("hears"),
    (sound) => sound !== undefined && isWanted(sound),
  );
}

/** Waits until a page hears a tone of this frequency, in hertz. */
export async function untilTone(tab: Tab, hertz: number): Promise<void> {
  await untilHeard(tab, (sound) => isAudible(sound) && Math.abs(sound.hertz - hertz) < 15);
}

/** Waits until a call rings in a page. */
export async function untilRinging(tab: Tab): Promise<void> {
  await until(
    "it rings",
    () => tab.run("ringing"),
    (ringing) => ringing > 0,
  );
}

/** Waits until the call of a page is in a state. */
export async function untilState(tab: Tab, wanted: string): Promise<void> {
  await until(
    `the call is ${wanted}`,
    () => tab.run("state"),
    (state) => state === wanted,
  );
}
