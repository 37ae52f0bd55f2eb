/** Contacts and an incoming call. The client lives as long as the component is mounted. */
import { type Call, Client, type ClientOptions, type ContactInfo } from "@chappe/client";
import { useEffect, useState } from "react";

interface CallsState {
  readonly status: "connecting" | "connected" | "not connected";
  readonly contacts: readonly ContactInfo[];
  readonly call: Call | undefined;
}

/** A connected client, and what a component shows of it. */
function useClient(options: ClientOptions): { client: Client; state: CallsState } {
  // Constructing a client does nothing, so React may do it twice.
  const [client] = useState(() => new Client(options));
  const [state, setState] = useState<CallsState>({ status: "connecting", contacts: [], call: undefined });
  useEffect(() => {
    const mounted = new AbortController();
    const { signal } = mounted;
    const change = (part: Partial<CallsState>) => setState((last) => ({ ...last, ...part }));
    client.addEventListener("connected", () => change({ status: "connected", contacts: client.contacts }), { signal });
    client.addEventListener("disconnected", () => change({ status: "connecting" }), { signal });
    client.addEventListener("contactschanged", () => change({ contacts: client.contacts }), { signal });
    client.addEventListener(
      "incomingcall",
      ({ detail: { call } }) => {
        change({ call });
        call.addEventListener("ended", () => change({ call: undefined }), { signal });
      },
      { signal },
    );
    client.connect().catch(() => {
      if (!signal.aborted) change({ status: "not connected" });
    });
    return () => {
      mounted.abort();
      void client.close();
    };
  }, [client]);
  return { client, state };
}

/** The contacts of this profile, a code for a new one, and the incoming call. */
export function Calls({ options }: { options: ClientOptions }) {
  const { client, state } = useClient(options);
  const [code, setCode] = useState<string>();
  const nameOf = (call: Call) => state.contacts.find(({ id }) => id === call.contact)?.name;
  const showCode = async () => setCode((await client.showCode()).code);
  return (
    <main>
      <p role="status">{state.status}</p>
      <ul>
        {state.contacts.map(({ id, name }) => (
          <li key={id}>{name}</li>
        ))}
      </ul>
      <button type="button" disabled={state.status !== "connected"} onClick={() => void showCode()}>
        Show a code
      </button>
      <output>{code}</output>
      {state.call && (
        <p role="alert">
          {nameOf(state.call)} calls
          <button type="button" onClick={() => state.call?.decline()}>
            Decline
          </button>
        </p>
      )}
    </main>
  );
}
