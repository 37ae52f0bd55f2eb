// PeerJS's own server, at an address and a port. Says when it is ready.
import { PeerServer } from "peer";

const [host, port] = process.argv.slice(2);
PeerServer({ host, port: Number(port), path: "/" }, () => console.log("ready"));
