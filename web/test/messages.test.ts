/** Texts and bytes of others: read, refused, and never thrown on. */
import { describe, expect, test } from "vitest";
import { fromBase64, fromBase64url, randomBytes, toBase64, toBase64url } from "../src/core/bytes.js";
import { cleanName } from "../src/core/clean-name.js";
import { distinctName } from "../src/core/distinct-name.js";
import { endpointOf, parseIp, urlOf } from "../src/core/endpoint.js";
import { iceText, offerText, readAnswer, readIce, readOffer } from "../src/core/messages.js";
import { Outbox, type OutboxMessage } from "../src/core/outbox.js";
import { DecodeError, Reader, Writer } from "../src/core/postcard.js";
import { escaped } from "../src/core/printable.js";
import { callIdBytes, callIdOf, parseEnvelope, ReplayWindow } from "../src/core/seal.js";
import { isPublicHost, networkOf } from "../src/core/special.js";
import { type Link, parseLink } from "../src/discovery/link.js";
import { LinkError } from "../src/discovery/link-error.js";
import { parseManualNode } from "../src/discovery/manual.js";
import { createLink, linkQrText, linkUrl } from "../src/discovery/new-link.js";
import { sendableSdp } from "../src/media/media-profile.js";
import { Phrase } from "../src/pairing/phrase.js";

const CALL = "01020304-0506-4708-890a-0b0c0d0e0f10";

describe("base64", () => {
  test("is that of the platform, for any length", () => {
    for (const length of [0, 1, 2, 3, 31, 32, 33, 20_000]) {
      const bytes = randomBytes(length);
      expect(toBase64(bytes)).toBe(Buffer.from(bytes).toString("base64"));
      expect(toBase64url(bytes)).toBe(Buffer.from(bytes).toString("base64url"));
      expect(fromBase64url(toBase64url(bytes), length)).toEqual(bytes);
      expect(fromBase64(toBase64(bytes))).toEqual(bytes);
    }
  });

  test.each(["A", "AA=", "AB", "A+", "A/", "Ä", "AA==", " AA", "AA\n"])("refuses %j", (text) => {
    expect(fromBase64url(text)).toBeUndefined();
  });

  test("refuses another length, and what is no text", () => {
    expect(fromBase64url("AAAA", 4)).toBeUndefined();
    expect([undefined, null, 1, {}].map((value) => fromBase64url(value))).toEqual(Array(4).fill(undefined));
  });
});

describe("postcard", () => {
  test("numbers of any size come back, and overlong or too large ones are refused", () => {
    for (const value of [0, 127, 128, 16_383, 16_384, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
      expect(new Reader(new Writer().varint(value).finish()).varint()).toBe(value);
    }
    for (const bytes of [[0x80], [0x80, 0], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]]) {
      expect(() => new Reader(new Uint8Array(bytes)).varint()).toThrow(DecodeError);
    }
    expect(() => new Reader(new Uint8Array([200, 1])).varint(199)).toThrow(DecodeError);
  });
});

describe("sealed messages", () => {
  const replyKey = new Uint8Array(32).fill(7);

  test("an offer comes back, with and without the call that it rejoins", () => {
    for (const rejoins of [undefined, CALL]) {
      const offer = { sdp: "v=0", replyKey, sentAt: 5, nodes: ["wss://a#b"], rejoins };
      expect(readOffer(offerText(offer))).toEqual(offer);
    }
  });

  test("candidates of round 0 have the form that older clients know", () => {
    expect(iceText({ candidates: ["c"], round: 0, description: undefined })).toBe('{"candidates":["c"]}');
    const description = { type: "offer", sdp: "v=0" } as const;
    const ice = { candidates: [], round: 3, description };
    expect(readIce(iceText(ice))).toEqual(ice);
  });

  test.each([
    "",
    "null",
    "[]",
    "{}",
    '{"sdp":1,"replyKey":"AA","sentAt":1}',
    '{"candidates":[],"round":-1}',
    '{"candidates":[],"round":1.5}',
    '{"candidates":{}}',
  ])("%j is none", (text) => {
    expect([readOffer(text), readAnswer(text), readIce(text)]).toEqual([undefined, undefined, undefined]);
  });

  test("what is not a text among candidates and nodes is passed over", () => {
    expect(readIce('{"candidates":["a",1,null,{}],"description":{"type":"pranswer","sdp":"x"}}')).toEqual({
      candidates: ["a"],
      round: 0,
      description: undefined,
    });
  });

  test("envelopes of another version or length are refused", () => {
    for (const length of [0, 20, 21 + 32 + 16, 21 + 32 + 512 + 17]) {
      expect(parseEnvelope(toBase64url(new Uint8Array(length).fill(1)))).toBeUndefined();
    }
    const bytes = new Uint8Array(21 + 32 + 512 + 16);
    expect(parseEnvelope(toBase64url(bytes))).toBeUndefined();
    bytes[0] = 1;
    expect(parseEnvelope(toBase64url(bytes))?.counter).toBe(0);
  });

  test("call ids are UUIDs of their bytes", () => {
    expect(callIdOf(callIdBytes(CALL))).toBe(CALL);
  });
});

test("each counter counts once, and one that is 128 behind the newest does not", () => {
  const window = new ReplayWindow();
  expect([5, 5, 4, 200, 73, 72, 72, 199, 199, 200].map((counter) => window.insert(counter))).toEqual([
    true,
    false,
    true,
    true,
    true,
    false,
    false,
    true,
    false,
    false,
  ]);
});

describe("the outbox", () => {
  /** Delivers what waits, and returns it. */
  function deliverAll(outbox: Outbox): OutboxMessage[] {
    const sent: OutboxMessage[] = [];
    for (let message = outbox.first; message !== undefined; message = outbox.first) {
      outbox.start();
      outbox.remove(message, true);
      sent.push(message);
    }
    return sent;
  }
  const ice = (round: number, ...candidates: string[]): OutboxMessage => ({ type: "ice", round, candidates });
  const description = (round: number, sdp = `o${round}`): OutboxMessage => {
    return { type: "ice", round, candidates: [], description: { type: "offer", sdp } };
  };

  test("merges candidates that wait, keeps the order, and an end replaces everything", () => {
    const outbox = new Outbox();
    outbox.push({ type: "offer" });
    outbox.push({ type: "offer" });
    for (const message of [ice(0, "a"), ice(0, "b"), ice(1, "c")]) outbox.push(message);
    outbox.start();
    expect(deliverAll(outbox)).toEqual([{ type: "offer" }, ice(0, "a", "b"), ice(1, "c")]);
    outbox.push({ type: "offer" });
    expect(outbox.first).toEqual({ type: "offer" });
    const signal = outbox.start();
    outbox.push({ type: "hangup" });
    expect(outbox.first).toEqual({ type: "hangup" });
    expect(signal.aborted).toBe(true);
  });

  test("sends a message at once on a new session, whether it is in flight or waits after a failure", () => {
    const outbox = new Outbox();
    const answer = { type: "answer" } as const;
    outbox.push(answer);
    const inFlight = outbox.start();
    outbox.retryNow();
    expect(inFlight.aborted).toBe(true);
    outbox.start();
    outbox.failed(answer, 1_000, false);
    expect(outbox.retryAt).toBeGreaterThan(1_000);
    const waiting = outbox.interruption();
    expect(waiting.aborted).toBe(false);
    outbox.retryNow();
    expect(waiting.aborted).toBe(true);
    expect(outbox.retryAt).toBe(0);
    // It is in flight no more, so it is not queued again behind itself.
    outbox.push(answer);
    expect(deliverAll(outbox)).toEqual([answer]);
  });

  test("lets the candidates of the newest round follow a repeated description", () => {
    const outbox = new Outbox();
    for (const message of [{ type: "answer" } as const, ice(0, "a"), ice(0, "b")]) {
      outbox.push(message);
      deliverAll(outbox);
    }
    outbox.push({ type: "answer" });
    expect(deliverAll(outbox)).toEqual([{ type: "answer" }, ice(0, "a", "b")]);
    for (const message of [description(1), ice(1, "c")]) outbox.push(message);
    deliverAll(outbox);
    for (let again = 0; again < 2; again++) {
      outbox.push(description(1));
      expect(deliverAll(outbox)).toEqual([description(1), ice(1, "c")]);
    }
    outbox.push(description(2));
    expect(deliverAll(outbox)).toEqual([description(2)]);
    // Those of earlier rounds are of no use any more.
    outbox.push({ type: "answer" });
    expect(deliverAll(outbox)).toEqual([{ type: "answer" }]);
  });

  test("queues a description once", () => {
    const outbox = new Outbox();
    outbox.push(description(1));
    outbox.push(ice(1, "a"));
    outbox.push(description(1));
    outbox.push(description(1, "the other side's offer is answered"));
    expect(deliverAll(outbox)).toHaveLength(2);
  });

  test("is bounded, and has always room for an offer, an answer and the end", () => {
    const outbox = new Outbox();
    const push = (round: number) => outbox.push(ice(round, "a"));
    expect(Array.from({ length: 9 }, (_, round) => push(round))).toEqual([...Array(8).fill(true), false]);
    outbox.start();
    for (const type of ["offer", "answer", "offer"] as const) expect(outbox.push({ type })).toBe(true);
    expect(push(9)).toBe(false);
    expect(deliverAll(outbox).map(({ type }) => type)).toEqual([...Array(8).fill("ice"), "offer", "answer"]);
    for (let round = 0; round < 8; round++) push(round);
    expect(outbox.push({ type: "hangup" })).toBe(true);
    expect(new Outbox().push(ice(0, ...Array<string>(65).fill("a")))).toBe(false);
    expect(new Outbox().push(ice(0, "a".repeat(20_000)))).toBe(false);
  });
});

describe("names", () => {
  test("lose what breaks a line or hides, and are at most 64 bytes", () => {
    expect(cleanName("  A\u202eda\n \u200b Lovelace\u0000 ")).toBe("Ada Lovelace");
    expect(new TextEncoder().encode(cleanName("ä".repeat(100))).length).toBe(64);
    expect(escaped("a\u202eb\u001b[2J")).toBe("a\\u{202e}b\\u{1b}[2J");
  });

  test("that look the same are told apart", () => {
    expect(distinctName("Ada", ["Bob"])).toBe("Ada");
    expect(distinctName("ada", ["Ada"])).toBe("ada 2");
    expect(distinctName("Аdа", ["Ada", "Ada 2"])).toBe("Аdа 3");
    expect(distinctName("", [])).toBe("contact");
    expect(new TextEncoder().encode(distinctName("x".repeat(64), ["x".repeat(64)])).length).toBe(64);
  });
});

describe("addresses", () => {
  test.each(["8.8.8.8", "[2a00:1450::1]", "relay.example.org", "xn--bcher-kva.example.com."])(
    "%s is public",
    (host) => {
      expect(isPublicHost(host)).toBe(true);
    },
  );

  test.each([
    "127.0.0.1",
    "10.1.2.3",
    "100.64.0.1",
    "[::1]",
    "[::ffff:10.0.0.1]",
    "[fe80::1]",
    "[2001:db8::1]",
    "[2002:a00:1::]",
    "localhost",
    "node",
    "a.local",
    "127.1",
    "0x7f.1",
    "x.home.arpa",
  ])("%s is not", (host) => {
    expect(isPublicHost(host)).toBe(false);
  });

  test("have networks", () => {
    expect(networkOf("wss://1.2.3.4:5/ws")).toBe("1.2");
    expect(networkOf("wss://[2a00:1450:1::1]:5")).toBe("2a:0:14:50");
    expect(networkOf("wss://a.b.example.org:5")).toBe("example.org");
  });

  test("come back as they were", () => {
    const node = new Uint8Array(32);
    for (const url of [
      "wss://1.2.3.4:5",
      "ws://[2001:db8::1]:65535",
      "wss://[::1]:1",
      "wss://a.example:7",
      "wss://a.example",
    ]) {
      expect(urlOf(endpointOf(node, url) as never)).toBe(url);
    }
    expect(endpointOf(node, "wss://1.2.3.4:0")).toBeUndefined();
    expect(endpointOf(node, "wss://a.example/path")).toBeUndefined();
    for (const text of ["1.2.3", "1.2.3.256", "01.2.3.4", "1::2::3", "1:2:3:4:5:6:7", "12345::", ":::"]) {
      expect(parseIp(text), text).toBeUndefined();
    }
  });

  test("of a person pin a key, or say what is wrong", () => {
    const key = toBase64url(new Uint8Array(32).fill(1));
    expect(parseManualNode(` wss://a.example:5#${key} `)).toMatchObject({ url: "wss://a.example:5", nodeId: key });
    expect(parseManualNode(`chappe://${key}@a.example:5`)).toMatchObject({ url: "wss://a.example:5", nodeId: key });
    expect(parseManualNode("ws://a.example").node).toBeUndefined();
    for (const text of ["https://a.example", "wss://", `wss://a#${key}x`, "chappe://a", "wss://a b"]) {
      expect(() => parseManualNode(text), text).toThrow(SyntaxError);
    }
  });
});

describe("links", () => {
  const NOW = 1_800_000_000;
  const key = (byte: number) => toBase64url(new Uint8Array(32).fill(byte));
  const code = "ABC234-ABCDEFGHJKLMNPQRSTUVWXYZ23";
  const nodes = [`wss://relay.example.org#${key(1)}`, `wss://8.8.8.8:8710#${key(2)}`, `ws://9.9.9.9:8710#${key(3)}`];

  test("come back from the link and from the QR text, in any case", () => {
    const link = createLink(nodes, code, NOW + 600, undefined) as Link;
    for (const text of [
      linkQrText(link),
      linkUrl(link, "https://calls.example/"),
      ` ${linkQrText(link).toLowerCase()}\n`,
    ]) {
      expect(parseLink(text, NOW)).toEqual(link);
    }
    expect(link.nodes).toHaveLength(3);
  });

  test("leave out a node rather than the federation", () => {
    const link = createLink(nodes, code, NOW + 600, new Uint8Array(16)) as Link;
    expect(link.federation).toHaveLength(16);
    expect(link.nodes.length).toBeLessThan(3);
    expect(parseLink(linkQrText(link), NOW)).toEqual(link);
  });

  test("say what is wrong with them", () => {
    const text = linkQrText(createLink(nodes, code, NOW + 600, undefined) as Link);
    const fault = (changed: string, now = NOW) => {
      try {
        parseLink(changed, now);
      } catch (error) {
        return error instanceof LinkError ? error.fault : error;
      }
      return undefined;
    };
    expect(fault("https://calls.example/")).toBe("not-a-link");
    expect(fault("CHAPPE:1")).toBe("not-a-link");
    expect(fault(text.replace(/.{5}$/, "AAAAA"))).toBe("checksum");
    expect(fault(text.repeat(9))).toBe("too-long");
    expect(fault(text, NOW + 600)).toBe("expired");
    expect(fault(text, NOW - 91 * 86_400)).toBe("expired");
    const local = createLink([`ws://127.0.0.1:1#${key(1)}`], code, NOW + 600, undefined) as Link;
    expect(fault(linkQrText(local))).toBe("private");
    expect(parseLink(linkQrText(local), NOW, true)).toEqual(local);
  });
});

test("codes are read as people type them", () => {
  for (const text of ["ABC234-WXYZ", " abc234 wxyz ", "abc234-wxyz", "ABC234 - WXYZ"]) {
    expect(Phrase.parse(text)?.reveal()).toBe("ABC234-WXYZ");
  }
  for (const text of ["", "ABC234", "ABC234-WXY", "ABC23O-WXYZ", "ABC234-WXY1", `ABC234-${"A".repeat(53)}`]) {
    expect(Phrase.parse(text), text).toBeUndefined();
  }
  expect(Phrase.parse(Phrase.generate(true).reveal())?.secret).toHaveLength(26);
});

test("feedback of codecs that a media line does not list is not sent", () => {
  const sdp =
    "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 109\r\na=rtcp-fb:109 nack\r\na=rtcp-fb:9 nack\r\nm=video 9 X 120 124\r\na=rtcp-fb:124 nack\r\na=rtcp-fb:12 nack\r\na=mid:1\r\n";
  expect(sendableSdp(sdp)).toBe(
    "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 109\r\na=rtcp-fb:109 nack\r\nm=video 9 X 120 124\r\na=rtcp-fb:124 nack\r\na=mid:1\r\n",
  );
});
