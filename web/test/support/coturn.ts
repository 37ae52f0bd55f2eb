/** A real TURN server of others: Debian's coturn, on loopback. */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "./federation.js";

const COTURN = "/usr/bin/turnserver";
const SECRET = "a secret of the tests";

/** Whether coturn is installed. If not, says which package is missing. */
export function hasCoturn(): boolean {
  const isInstalled = existsSync(COTURN);
  if (!isInstalled) console.warn("skipped: coturn is not installed (Debian: apt install coturn)");
  return isInstalled;
}

/** A running server. */
export interface Coturn {
  /** The key of a node that offers this server over one transport. */
  key(transport: "udp" | "tcp"): string;
  stop(): Promise<void>;
}

/** Starts a server, which takes the credentials that nodes make from a shared secret. */
export async function startCoturn(): Promise<Coturn> {
  const folder = mkdtempSync(join(tmpdir(), "chappe-coturn-"));
  const port = await freePort();
  const args = ["-n", "--no-cli", "--no-tls", "--no-dtls", "--allow-loopback-peers", "--realm", "chappe.test"];
  const server = spawn(
    COTURN,
    [
      ...args,
      ...["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--listening-port", String(port)],
      ...["--use-auth-secret", "--static-auth-secret", SECRET],
      ...["--log-file", "stdout", "--pidfile", join(folder, "pid"), "--userdb", join(folder, "users")],
    ],
    { stdio: "ignore" },
  );
  const exited = new Promise((resolve) => server.on("exit", resolve));
  await eventually("coturn listens", () => accepts(port));
  return {
    key: (transport) => `ice.servers=[{urls=["turn:127.0.0.1:${port}?transport=${transport}"],secret="${SECRET}"}]`,
    stop: async () => {
      server.kill();
      await exited;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(port, "127.0.0.1");
    socket.on("connect", () => resolve(true)).on("error", () => resolve(false));
    socket.on("connect", () => socket.end());
  });
}
