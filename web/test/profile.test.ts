/** What a page keeps and shows: keys, a wipe, an export, links and QR codes, DNS, and the size of its offers. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type Browser, installedBrowsers, launch, servePage, until, untilRinging } from "./support/browsers.js";
import { serveDns } from "./support/dns.js";
import { type ProcessFederation, startProcesses } from "./support/federation.js";

const installed = installedBrowsers();

let federation: ProcessFederation;
let page: Awaited<ReturnType<typeof servePage>>;
const browsers: Browser[] = [];

beforeAll(async () => {
  [federation, page] = await Promise.all([startProcesses(3), servePage()]);
  for (const name of installed) browsers.push(await launch(name, page.url));
}, 120_000);

afterEach(async () => {
  await Promise.all(browsers.map((browser) => browser.closeTabs()));
});

afterAll(async () => {
  for (const browser of browsers) await browser.close();
  page.close();
  await federation.stop();
});

describe.each(installed.map((name, index) => ({ name, index })))("$name", ({ index }) => {
  const open = () => (browsers[index] as Browser).open();
  const options = () => ({ registries: [federation.registry], roots: [federation.root], isPrivate: true });

  test("pairs by a QR code, keeps its keys from scripts, and leaves nothing behind after a wipe", async () => {
    const [a, b] = [await open(), await open()];
    await Promise.all([a.run("start", { ...options(), name: "Ada" }), b.run("start", { ...options(), name: "Bob" })]);
    const shown = await b.run("showCode", true);
    expect(shown.link).toMatch(/^https:\/\/calls\.example\/i#[A-Z2-7]+$/);
    const scanned = await a.run("scan", shown.qrText as string);
    expect(scanned).toBe(shown.qrText);
    const atA = await a.run("pair", scanned);
    expect(atA.words).toEqual((await b.run("paired"))?.words);

    const keys = await a.run("readableKeys", "chappe");
    expect(keys.count).toBeGreaterThan(2);
    expect(keys.readable).toBe(0);
    await expect(a.run("exportProfile", "a passphrase")).rejects.toThrow(/cannot leave this browser/);
    await a.reload();
    await a.run("start", options());
    expect(await a.run("contacts")).toEqual([{ id: atA.contact, name: "Bob", isConfirmed: true }]);
    await a.run("wipe");
    expect(await a.run("databases")).toEqual([]);
    await b.run("close");
  }, 60_000);

  test("lets one page at a time use a profile, and the next one when that is closed", async () => {
    const a = await open();
    await a.run("start", options());
    const b = await a.sibling();
    await expect(b.run("start", options())).rejects.toThrow(/another page or client uses this profile/);
    await a.run("close");
    await b.run("start", options());
    await b.run("close");
  }, 60_000);

  test("does not take a browser that gives no lock for another page", async () => {
    const tab = await open();
    await tab.run("refuseLocks");
    await expect(tab.run("start", options())).rejects.toThrow(/does not lock the profile/);
  });

  test("is wiped by another page of it, and not written again by the first", async () => {
    const a = await open();
    await a.run("start", options());
    const b = await a.sibling();
    await expect(b.run("start", options())).rejects.toThrow(/another page or client uses this profile/);
    await b.run("wipe");
    // Closing records that there is no call.
    await a.run("close");
    expect(await a.run("databases")).toEqual([]);
    await a.run("wipe");
    expect(await a.run("databases")).toEqual([]);
  }, 60_000);

  test("exports a profile that was created for it, and reads it with the right passphrase alone", async () => {
    const [a, b] = [await open(), await open()];
    await a.run("start", { ...options(), name: "Ada", isExportable: true });
    await b.run("start", { ...options(), name: "Bob" });
    const { code } = await b.run("showCode", false);
    const paired = await a.run("pair", code);
    const file = await a.run("exportProfile", "a passphrase");
    expect(file).not.toMatch(/Ada|Bob/);
    await a.run("close");
    const other = await open();
    await expect(other.run("importProfile", "moved", file, "another")).rejects.toThrow(/passphrase/);
    await other.run("importProfile", "moved", file, "a passphrase");
    await other.run("start", { ...options(), profile: "moved" });
    expect(await other.run("contacts")).toMatchObject([{ id: paired.contact, name: "Bob" }]);
    const sibling = await other.sibling();
    const inUse = sibling.run("importProfile", "moved", file, "a passphrase");
    await expect(inUse).rejects.toThrow(/another page or client uses this profile/);
    await other.run("call", paired.contact);
    await untilRinging(b);
    await Promise.all([other.run("close"), b.run("close")]);
  }, 60_000);

  test.each([true, false])(
    "says whether a profile can be exported by its own keys, where there was no X25519: %s",
    async (isExportable) => {
      const tab = await open();
      await tab.run("lackX25519");
      await tab.run("start", { ...options(), name: "Ada", isExportable });
      expect(await tab.run("keyProtection")).toBe("script-readable");
      const expectExport = async () => {
        const file = tab.run("exportProfile", "a passphrase");
        if (isExportable) expect(await file).toContain("chappeProfile");
        else await expect(file).rejects.toThrow(/cannot leave this browser/);
      };
      await expectExport();
      for (const lacks of [true, false]) {
        await tab.reload();
        if (lacks) await tab.run("lackX25519");
        await tab.run("start", options());
        await expectExport();
        await tab.run("setName", "Ada L");
      }
      // Where there is X25519 now, a profile that cannot be exported has a key that no script can read.
      const keys = await tab.run("readableKeys", "chappe");
      expect(keys.readable).toBe(0);
      expect(keys.count).toBe(isExportable ? 1 : 2);
      await tab.run("close");
    },
  );

  test("imports a profile into a client that was wiped", async () => {
    const tab = await open();
    await tab.run("start", { ...options(), name: "Ada", isExportable: true });
    const file = await tab.run("exportProfile", "a passphrase");
    await tab.run("wipe");
    expect(await tab.run("databases")).toEqual([]);
    await tab.run("importHere", file, "a passphrase");
    await tab.run("start", { ...options(), name: "Bob" });
    expect(await tab.run("name")).toBe("Ada");
    await tab.run("close");
  }, 60_000);

  test("knows no node and no link from before a wipe, in a client that goes on", async () => {
    const [a, b] = [await open(), await open()];
    await Promise.all([a.run("start", options()), b.run("start", options())]);
    const shown = await b.run("showCode", true);
    await a.run("pair", shown.link as string);
    await until(
      "nodes are stored",
      () => a.run("knownNodes"),
      (count) => (count ?? 0) > 0,
    );
    await a.run("wipe");
    expect(await a.run("databases")).toEqual([]);
    await a.run("log");
    await a.run("blockRequests");
    await expect(a.run("connectAgain")).rejects.toThrow(/no node was found/);
    const failed = (await a.run("log")).find(({ event }) => event === "searchfailed");
    const reports = (failed?.error ?? []) as { source: string }[];
    expect(reports.map(({ source }) => source)).toEqual(["registry"]);
    expect(await a.run("contacts")).toEqual([]);
    expect(await a.run("knownNodes")).toBe(0);
    await Promise.all([a.run("close"), b.run("close")]);
  }, 60_000);

  test("imports no profile that another page wipes meanwhile", async () => {
    const tab = await open();
    await tab.run("start", { ...options(), name: "Ada", isExportable: true });
    const file = await tab.run("exportProfile", "a passphrase");
    await tab.run("wipe");
    const [importing, wiping] = [await tab.sibling(), await tab.sibling()];
    for (const one of [importing, wiping]) await one.run("make", options());
    await importing.run("beginImport", file, "a passphrase");
    await wiping.run("wipe");
    expect(await importing.run("finishImport")).toMatch(/wiped/);
    expect(await tab.run("databases")).toEqual([]);

    // It waits until the other page has let go of the profile.
    await importing.reload();
    await wiping.run("connectAgain");
    await importing.run("make", options());
    await importing.run("beginImport", file, "a passphrase");
    await wiping.run("wipe");
    expect(await importing.run("finishImport")).toMatch(/wiped/);
    expect(await tab.run("databases")).toEqual([]);

    await importing.run("importHere", file, "a passphrase");
    await importing.run("connectAgain");
    expect(await importing.run("name")).toBe("Ada");
    await importing.run("close");
  }, 60_000);

  test("tells known nodes that cannot be read now from those that never can be", async () => {
    const tab = await open();
    await tab.run("start", options());
    await tab.run("close");
    expect(await tab.run("readsNodes", "")).toBe("nodes");
    expect(await tab.run("readsNodes", "cache")).toBe("error");
    expect(await tab.run("readsNodes", "key")).toBe("error");
    await tab.run("loseStorageKey");
    expect(await tab.run("readsNodes", "")).toBe("nothing");
  }, 60_000);

  test("finds nodes by DNS over HTTPS, by GET, and refuses records of another federation", async () => {
    const dns = await serveDns(["v=spf1 -all", ...(await federation.shards())]);
    const tab = await open();
    const sources = { registries: [], dns: { names: ["nodes.example"], providers: [dns.url] } };
    await tab.run("start", { ...options(), ...sources });
    expect(dns.queries).toEqual(["GET nodes.example"]);
    await tab.run("close");
    const other = await open();
    const roots = [federation.nodes[0]?.id as string];
    await expect(other.run("start", { ...options(), ...sources, roots })).rejects.toThrow(/no node was found/);
    expect(JSON.stringify(await other.run("log"))).toContain("not signed under a pinned root key");
    await other.run("close");
    dns.close();
  }, 60_000);

  test("offers sound, camera and screen alike: the sealed offer has one length", async () => {
    const tab = await open();
    const lengths = await tab.run("offerLengths");
    const json = Object.values(lengths).map((length) => length.json);
    console.info(`${installed[index]}: JSON of an offer, with candidates: ${json.join(", ")} bytes`);
    expect(Math.max(...json)).toBeLessThanOrEqual(8_188);
    // The header, the encapsulated key, 8,192 bytes and the tag, in base64url.
    const sealed = Math.ceil(((21 + 32 + 8_192 + 16) * 4) / 3);
    expect(Object.values(lengths).map((length) => length.payload)).toEqual([sealed, sealed, sealed, sealed]);
  }, 60_000);

  test("makes 600 calls in one page", async () => {
    const [a, b] = [await open(), await open()];
    await Promise.all([a.run("start", options()), b.run("start", options())]);
    const { code } = await b.run("showCode", false);
    const { contact } = await a.run("pair", code);
    await b.run("close");
    expect(await a.run("manyCalls", contact, 600)).toBe(600);
    await a.run("close");
  }, 180_000);
});
