/** Chromium and Firefox with the `chappe` command: pairing, and calls both ways over different nodes. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  type Browser,
  type BrowserName,
  installedBrowsers,
  launch,
  servePage,
  untilRinging,
  untilState,
  untilTone,
} from "./support/browsers.js";
import { Command, type Federation, startFederation } from "./support/federation.js";

let federation: Federation;
let page: Awaited<ReturnType<typeof servePage>>;
let folder: string;
const browsers = new Map<BrowserName, Browser>();
const installed = installedBrowsers();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "chappe-cli-"));
  [federation, page] = await Promise.all([startFederation(3), servePage()]);
  for (const name of installed) browsers.set(name, await launch(name, page.url));
}, 120_000);

afterAll(async () => {
  for (const browser of browsers.values()) await browser.close();
  page.close();
  await federation.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** The tones that the commands play, in hertz. */
const LISTEN_TONE = 650;
const CALL_TONE = 400;

test.each(installed)(
  "%s pairs with `chappe pair`, calls `chappe listen`, and is called by `chappe call`",
  async (name) => {
    const tab = await (browsers.get(name) as Browser).open();
    const profile = ["--json", "--profile", join(folder, name)];
    const network = ["--registry", federation.registry, "--root", federation.root, "--private-network"];

    const pairing = new Command(["pair", ...profile, ...network, "--name", "Bob"]);
    const code = await pairing.line("the code", (line) => line.event === "code");
    await tab.run("start", {
      registries: [federation.registry],
      roots: [federation.root],
      isPrivate: true,
      name: "Ada",
    });
    const paired = await tab.run("pair", String(code.code));
    const theirs = await pairing.line("the contact", (line) => line.event === "paired");
    expect(theirs.words).toEqual(paired.words);
    expect(await pairing.exited).toBe(0);

    const listen = new Command(["listen", ...profile, "--once"]);
    const connected = await listen.line("connected", (line) => line.event === "ready");
    // On another node: this client avoids the one of the command.
    await tab.run("close");
    const here = await tab.run("start", {
      registries: [federation.registry],
      roots: [federation.root],
      isPrivate: true,
      avoid: [String(connected.node)],
    });
    expect(here.node).not.toBe(connected.node);
    await tab.run("call", paired.contact);
    await untilState(tab, "connected");
    await untilTone(tab, LISTEN_TONE);
    // A page that was reloaded comes back into the call, which the command answers again.
    await tab.reload();
    const again = await tab.run("start", {
      registries: [federation.registry],
      roots: [federation.root],
      isPrivate: true,
      avoid: [String(connected.node)],
    });
    expect(again.node).not.toBe(connected.node);
    expect(await tab.run("rejoin")).toBe(true);
    await untilState(tab, "connected");
    const replaced = await listen.line("the end of the first call", (line) => line.event === "call");
    expect(replaced).toMatchObject({ ok: true });
    await untilTone(tab, LISTEN_TONE);
    await tab.run("hangUp");
    const heard = await listen.line("the end of the call", (line) => line.event === "call");
    expect(heard).toMatchObject({ ok: true });
    expect(await listen.exited).toBe(0);

    const call = new Command(["call", ...profile, "Ada", "--seconds", "2"]);
    await untilRinging(tab);
    await tab.run("accept");
    await untilTone(tab, CALL_TONE);
    expect(await call.exited).toBe(0);
    await tab.run("close");
  },
  120_000,
);
