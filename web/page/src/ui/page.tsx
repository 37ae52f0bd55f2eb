/** The whole page: the first start, a call, or the contacts with a screen. */

import { CallView } from "./call-view.js";
import { SessionContext, useApp } from "./context.js";
import { Shell } from "./shell.js";
import { Welcome } from "./welcome.js";

export function Page() {
  const app = useApp();
  const session = app.session.value;
  const active = session?.desk.active.value;
  return (
    <>
      <p class="spoken" aria-live="assertive">
        {app.announcement.value}
      </p>
      {session === undefined ? (
        <Welcome />
      ) : (
        <SessionContext.Provider value={session}>
          {active === undefined ? <Shell /> : <CallView key={active.startedAt} active={active} />}
        </SessionContext.Provider>
      )}
    </>
  );
}
