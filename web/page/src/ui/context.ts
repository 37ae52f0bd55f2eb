/** The page and the profile in use, for every component. */
import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import type { App } from "../store/app.js";
import type { Session } from "../store/session.js";

export const AppContext = createContext<App | undefined>(undefined);
export const SessionContext = createContext<Session | undefined>(undefined);

export function useApp(): App {
  const app = useContext(AppContext);
  if (app === undefined) throw new Error("there is no page around this component");
  return app;
}

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (session === undefined) throw new Error("there is no profile around this component");
  return session;
}

/** `Date.now()`, again every second while `isNeeded`. */
export function useNow(isNeeded = true): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!isNeeded) return;
    const timer = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, [isNeeded]);
  return now;
}
