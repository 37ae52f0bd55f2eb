/** After a call: why it is over, and calling again. */
import type { ActiveCall } from "../store/active-call.js";
import { durationText, t } from "../texts/texts.js";
import { Avatar } from "./avatar.js";
import { useSession } from "./context.js";
import { Button, Title } from "./controls.js";
import { endHelp, endTitle, isMissed } from "./end-text.js";

export function EndedView({ active, name }: { active: ActiveCall; name: string }) {
  const session = useSession();
  const { desk, client } = session;
  const { contact } = active;
  const reason = active.end.value;
  const help = endHelp(active, name);
  const again = () => void desk.place(contact, false);
  const allow = async () => {
    await client.allowDirect(contact, true);
    await desk.place(contact, false);
  };
  return (
    <main class="call ended">
      <div class="ring-who">
        <Avatar id={contact} name={name} size="large" />
        <Title>{endTitle(active)}</Title>
        <p class="ring-state">
          <bdi>{name}</bdi>
          {active.connectedAt.value !== undefined && ` · ${durationText(active.duration(endOf(active)))}`}
        </p>
        {help && <p class="end-help">{help}</p>}
      </div>
      <div class="row ended-actions">
        {reason === "no-relay" ? (
          <Button kind="primary" icon="phone" onClick={() => void allow()}>
            {t("endAllowDirect")}
          </Button>
        ) : (
          <Button kind="primary" icon="phone" onClick={again}>
            {isMissed(active) ? t("callBack") : t("callAgain")}
          </Button>
        )}
        {reason === "not-connected" && (
          <Button
            icon="question"
            onClick={() => {
              desk.dismiss();
              session.show({ name: "diagnosis" });
            }}
          >
            {t("settingsWhy")}
          </Button>
        )}
        <Button icon="close" onClick={() => desk.dismiss()}>
          {t("close")}
        </Button>
      </div>
    </main>
  );
}

function endOf(active: ActiveCall): number {
  return active.endedAt ?? Date.now();
}
