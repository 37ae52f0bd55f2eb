/** What the tests of the page need: the page on a server of its own, a federation, and Chromium. */
import type { Browser, BrowserContextOptions } from "playwright-core";
import { servePage } from "../../tools/page.mjs";
import { launchChromium } from "../examples/chromium.js";
import type { Federation } from "../support/federation.js";
import { Visitor } from "./visitor.js";

/** The running page. Its files are those that the global setup has built. */
export class Site<F extends Federation = Federation> {
  private constructor(
    readonly federation: F,
    readonly browser: Browser,
    private readonly server: Awaited<ReturnType<typeof servePage>>,
  ) {}

  /** Starts the page for the users of a federation that is being started. */
  static async start<F extends Federation>(federation: Promise<F>): Promise<Site<F>> {
    const [running, browser, server] = await Promise.all([federation, launchChromium(), servePage()]);
    return new Site(running, browser, server);
  }

  /** The page's address without a fragment. */
  get url(): string {
    return this.server.url;
  }

  /** The page's address, with the federation that a new profile uses, as `chappe up` prints it. */
  get federationUrl(): string {
    const { registry, root } = this.federation;
    return `${this.url}#${new URLSearchParams({ registry, root })}&private`;
  }

  /** Opens the page for somebody who has never used it. */
  open(name: string, options?: BrowserContextOptions): Promise<Visitor> {
    return Visitor.open(this.browser, name, this.federationUrl, options);
  }

  /** Opens the page for two people, with a profile each. */
  async openTwo(): Promise<[Visitor, Visitor]> {
    const people = await Promise.all([this.open("Ada"), this.open("Bob")]);
    await Promise.all(people.map((person) => person.start()));
    return people;
  }

  async stop(): Promise<void> {
    await this.browser.close();
    this.server.close();
    await this.federation.stop();
  }
}
