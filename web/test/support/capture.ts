/** A packet capture on loopback: what clients send to nodes, as WebSocket texts. */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "./federation.js";

const TCPDUMP = "/usr/bin/tcpdump";

/** Whether packets can be captured here. If not, says why. */
export function canCapture(): boolean {
  const reason = !existsSync(TCPDUMP)
    ? "tcpdump is not installed (Debian: apt install tcpdump)"
    : process.getuid?.() !== 0
      ? "only root can capture packets"
      : undefined;
  if (reason !== undefined) console.warn(`skipped: ${reason}`);
  return reason === undefined;
}

/** A running capture of the TCP traffic of these ports. */
export async function startCapture(ports: readonly number[]): Promise<{ stop(): Promise<Captured> }> {
  const folder = mkdtempSync(join(tmpdir(), "chappe-capture-"));
  const file = join(folder, "packets");
  const filter = `tcp and (${ports.map((port) => `port ${port}`).join(" or ")})`;
  const process = spawn(
    TCPDUMP,
    ["-i", "lo", "--immediate-mode", "-B", "65536", "-U", "-s", "0", "-Z", "root", "-w", file, filter],
    {
      stdio: "ignore",
    },
  );
  const exited = new Promise((resolve) => process.on("exit", resolve));
  await eventually("the capture runs", () => existsSync(file) && statSync(file).size > 0);
  return {
    stop: async () => {
      // What is on its way into the file.
      await new Promise((resolve) => setTimeout(resolve, 500));
      process.kill("SIGINT");
      await exited;
      const captured = read(readFileSync(file), new Set(ports));
      rmSync(folder, { recursive: true, force: true });
      return captured;
    },
  };
}

/** What was captured. */
export interface Captured {
  /** The WebSocket texts that clients have sent, unmasked, and when: in milliseconds since 1970. */
  readonly texts: readonly { readonly at: number; readonly text: string }[];
  /** Everything else that clients have sent to those ports, such as the heads of requests. */
  readonly heads: readonly string[];
}

function read(file: Buffer, ports: ReadonlySet<number>): Captured {
  const streams: Streams = new Map();
  // libpcap: a header of 24 bytes, and for each packet one of 16 with the captured length.
  for (let at = 24; at + 16 <= file.length; ) {
    const length = file.readUInt32LE(at + 8);
    const time = file.readUInt32LE(at) * 1000 + file.readUInt32LE(at + 4) / 1000;
    addSegment(streams, file.subarray(at + 16, at + 16 + length), time, ports);
    at += 16 + length;
  }
  const texts: Captured["texts"][number][] = [];
  const heads: string[] = [];
  for (const segments of streams.values()) {
    const sorted = [...segments].sort(([a], [b]) => a - b).map(([, segment]) => segment);
    const stream = Buffer.concat(sorted.map(({ data }) => data));
    const timeOf = (offset: number) => {
      let end = 0;
      for (const { data, time } of sorted) {
        end += data.length;
        if (end > offset) return time;
      }
      return 0;
    };
    const end = stream.indexOf("\r\n\r\n");
    heads.push(stream.subarray(0, end < 0 ? stream.length : end).toString("latin1"));
    if (/^upgrade: websocket/im.test(heads.at(-1) ?? "")) {
      texts.push(...frames(stream, end + 4).map(({ offset, text }) => ({ at: timeOf(offset), text })));
    }
  }
  return { texts, heads };
}

/** The segments of each connection from a client, by their sequence numbers. */
type Streams = Map<string, Map<number, { readonly data: Buffer; readonly time: number }>>;

/** Adds a TCP segment in an Ethernet frame that a client has sent to one of the ports. */
function addSegment(streams: Streams, frame: Buffer, time: number, ports: ReadonlySet<number>): void {
  const ip = frame.subarray(14);
  if (frame.readUInt16BE(12) !== 0x0800 || ip[9] !== 6) return;
  const tcp = ip.subarray((ip.readUInt8(0) & 0x0f) * 4, ip.readUInt16BE(2));
  const [from, to, seq] = [tcp.readUInt16BE(0), tcp.readUInt16BE(2), tcp.readUInt32BE(4)];
  const data = tcp.subarray((tcp.readUInt8(12) >> 4) * 4);
  if (!ports.has(to) || data.length === 0) return;
  const key = `${from} ${to}`;
  const segments = streams.get(key) ?? new Map();
  streams.set(key, segments.set(seq, { data, time }));
}

/** The texts of masked WebSocket frames (RFC 6455, 5.2). */
function frames(stream: Buffer, from: number): { offset: number; text: string }[] {
  const texts: { offset: number; text: string }[] = [];
  for (let at = from; at + 6 <= stream.length; ) {
    const offset = at;
    const opcode = stream.readUInt8(at) & 0x0f;
    let length = stream.readUInt8(at + 1) & 0x7f;
    at += 2;
    if (length === 126) {
      length = stream.readUInt16BE(at);
      at += 2;
    } else if (length === 127) {
      length = Number(stream.readBigUInt64BE(at));
      at += 8;
    }
    const mask = stream.subarray(at, at + 4);
    const payload = Buffer.from(stream.subarray(at + 4, at + 4 + length)).map(
      (byte, index) => byte ^ (mask[index & 3] ?? 0),
    );
    if (opcode === 1) texts.push({ offset, text: Buffer.from(payload).toString() });
    at += 4 + length;
  }
  return texts;
}
