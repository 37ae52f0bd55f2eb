/** People who use the page as people do: by its buttons and fields. */
import type { Browser, BrowserContext, BrowserContextOptions, Page } from "playwright-core";
import { expect } from "vitest";
import { ar } from "../../page/src/texts/ar.js";
import { de } from "../../page/src/texts/de.js";
import { en } from "../../page/src/texts/en.js";
import type { TextKey, Texts } from "../../page/src/texts/texts.js";
import { PATIENCE } from "../support/federation.js";

const LANGUAGES: Readonly<Record<string, Texts>> = { ar, de, en };

/** The energy of the beeps of a fake microphone within two seconds is above the first, that of silence below the second. */
export const AUDIBLE = 5e-4;
export const SILENT = 5e-6;

/** How often what is heard is looked at, in milliseconds: a beep comes each second. */
const EVERY = { interval: 100 };

interface Heard {
  /** Of the sound that has arrived: seconds at full loudness squared. */
  readonly energy: number;
  /** Pictures that were decoded. */
  readonly frames: number;
  /** Seconds that the page has played. */
  readonly played: number;
}

/** Collects the connections of a page and the element that it plays, so that a test can read their statistics. */
export function collectPeers(): void {
  const peers: RTCPeerConnection[] = [];
  const Original = globalThis.RTCPeerConnection;
  globalThis.RTCPeerConnection = new Proxy(Original, {
    construct: (target, args, newTarget) => {
      const peer = Reflect.construct(target, args, newTarget) as RTCPeerConnection;
      peers.push(peer);
      return peer;
    },
  });
  const play = HTMLAudioElement.prototype.play;
  HTMLAudioElement.prototype.play = function (this: HTMLMediaElement) {
    Object.assign(globalThis, { audio: this });
    return play.call(this);
  };
  Object.assign(globalThis, { peers });
}

/** What the newest connection of a page has received so far. Runs in the page. */
export async function heard(): Promise<Heard> {
  const { peers, audio } = globalThis as unknown as { peers: RTCPeerConnection[]; audio?: HTMLAudioElement };
  let [energy, frames] = [0, 0];
  for (const report of (await peers.at(-1)?.getStats())?.values() ?? []) {
    if (report.type !== "inbound-rtp") continue;
    energy += report.totalAudioEnergy ?? 0;
    frames += report.framesDecoded ?? 0;
  }
  return { energy, frames, played: audio?.currentTime ?? 0 };
}

/** Someone at the page, in a browser profile of their own. */
export class Visitor {
  /** Every URL that the page has requested, WebSockets included. */
  readonly requests: string[] = [];
  /** Errors of the page, and violations of its policy. */
  readonly errors: string[] = [];

  private constructor(
    readonly name: string,
    readonly page: Page,
    readonly context: BrowserContext,
    readonly texts: Texts,
  ) {}

  static async open(
    browser: Browser,
    name: string,
    url: string,
    options: BrowserContextOptions = {},
  ): Promise<Visitor> {
    const { locale = "en" } = options;
    const context = await browser.newContext({ ...options, locale });
    return Visitor.openIn(context, name, url, LANGUAGES[locale]);
  }

  static async openIn(context: BrowserContext, name: string, url: string, texts: Texts = en): Promise<Visitor> {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    const visitor = new Visitor(name, page, context, texts);
    page.on("request", (request) => visitor.requests.push(request.url()));
    page.on("websocket", (socket) => visitor.requests.push(socket.url()));
    page.on("pageerror", (error) => visitor.errors.push(`${error}\n${error.stack}`));
    page.on("console", (message) => {
      if (message.type() === "error") visitor.errors.push(message.text());
    });
    await page.addInitScript(collectPeers);
    await page.goto(url);
    return visitor;
  }

  /** A text of the page, in this person's language. */
  text(key: TextKey, values: Readonly<Record<string, string>> = {}): string {
    return this.texts[key].replace(/\{(\w+)\}/g, (_, name: string) => `\u2068${values[name]}\u2069`);
  }

  button(key: TextKey) {
    return this.page.getByRole("button", { name: this.text(key), exact: true });
  }

  async click(key: TextKey): Promise<void> {
    await this.button(key).click();
  }

  /** Waits until a screen is shown, by its heading. */
  async sees(key: TextKey): Promise<void> {
    await this.seesHeading(this.text(key));
  }

  async seesHeading(text: string): Promise<void> {
    await this.page.getByRole("heading", { level: 1, name: text, exact: true }).waitFor();
  }

  async seesText(key: TextKey, values?: Readonly<Record<string, string>>): Promise<void> {
    await this.page.getByText(this.text(key, values), { exact: true }).first().waitFor();
  }

  /** Waits until the two can talk. */
  async talks(): Promise<void> {
    await this.page.getByRole("timer").waitFor();
  }

  /** The first start: enters a name, and connects. */
  async start(): Promise<void> {
    await this.page.getByLabel(this.text("welcomeName"), { exact: true }).fill(this.name);
    await this.click("welcomeStart");
    await this.seesText("statusConnected");
  }

  async showCode(): Promise<string> {
    await this.click("contactsAdd");
    return (await this.page.locator(".pair-code").textContent()) ?? "";
  }

  /** Enters what the other person shows. */
  async enter(code: string): Promise<void> {
    await this.click("contactsAdd");
    await this.page.getByRole("tab", { name: this.text("pairTabEnter") }).click();
    await this.page.getByLabel(this.text("pairEnterLabel")).fill(code);
    await this.click("pairEnter");
  }

  async words(): Promise<string[]> {
    const list = this.page.locator(".words li");
    await list.first().waitFor();
    return list.allTextContents();
  }

  /** Opens a contact, and lets it see this device's address: a federation without relays needs it. */
  async allowDirect(name: string): Promise<void> {
    await this.openContact(name);
    const isRelayed = this.page.getByRole("switch", { name: this.text("contactRelay") });
    if (await isRelayed.isChecked()) await isRelayed.click();
  }

  async openContact(name: string): Promise<void> {
    const heading = this.page.getByRole("heading", { level: 1, name });
    if (!(await heading.isVisible())) await this.page.locator(".contact-row", { hasText: name }).click();
    await heading.waitFor();
  }

  async call(name: string): Promise<void> {
    await this.openContact(name);
    await this.click("contactCall");
  }

  /** What has been received so far. */
  async heard(): Promise<Heard> {
    return this.page.evaluate(heard);
  }

  /** Waits until sound arrives. Silence adds less energy than one beep, even over the longest wait. */
  async untilHeard(): Promise<void> {
    let before = Number.POSITIVE_INFINITY;
    const increase = async () => {
      const { energy } = await this.heard();
      // A new connection counts from the beginning.
      before = Math.min(before, energy);
      return energy - before;
    };
    await expect.poll(increase, EVERY).toBeGreaterThan(AUDIBLE);
  }

  /** What is received within some milliseconds. */
  async hears(milliseconds: number): Promise<Heard> {
    const before = await this.heard();
    await this.page.waitForTimeout(milliseconds);
    const after = await this.heard();
    return {
      energy: after.energy - before.energy,
      frames: after.frames - before.frames,
      played: after.played - before.played,
    };
  }
}

/** Pairs two people by a code that the first shows, and lets each see the other's address. */
export async function pair(a: Visitor, b: Visitor): Promise<void> {
  await b.enter(await a.showCode());
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    await one.sees("wordsTitle");
    await one.click("wordsSame");
    await one.allowDirect(other.name);
  }
}
