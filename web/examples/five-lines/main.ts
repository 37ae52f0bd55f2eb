/** A call from a page. The lines that use the library are numbered. */
import { type Call, Client, type PairedContact } from "@chappe/client";

const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const query = new URLSearchParams(location.search);
// `isPrivate` admits nodes of 127.0.0.1. Leave it out in a federation on the internet.
const options = { registries: query.getAll("registry"), roots: query.getAll("root"), isPrivate: true };

let call: Call | undefined;

/** Shows the words of a new contact. */
function showWords({ words }: PairedContact): void {
  element("words").textContent = words.join(" ");
}

/** Plays a call, and shows its state. */
function follow(current: Call): void {
  call = current;
  element<HTMLAudioElement>("voice").srcObject = current.remoteStream;
  element("state").textContent = current.state;
  current.addEventListener("connected", () => (element("state").textContent = "connected"));
  current.addEventListener("ended", ({ detail }) => (element("state").textContent = detail.reason));
}

/** The microphone, asked for at the first call. */
async function media() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  // Without relays the other side sees this device's address: `chappe up` has none. Leave it out elsewhere.
  return { tracks: { sound: stream.getAudioTracks()[0] ?? null }, isRelayOnly: false };
}

const client = new Client(options);
client.addEventListener("incomingcall", ({ detail }) => follow(detail.call));
element("show").onclick = async () => {
  const shown = await client.showCode();
  element<HTMLInputElement>("code").value = shown.code;
  showWords(await shown.paired);
};

await client.connect(); // 1
element("pair").onclick = async () => showWords(await client.pair(element<HTMLInputElement>("code").value)); // 2
element("call").onclick = async () => follow(await client.call(client.contacts[0]?.id ?? "", await media())); // 3
element("answer").onclick = async () => call?.accept(await media()); // 4
element("hang-up").onclick = () => call?.hangUp(); // 5
document.body.dataset.ready = "true";
