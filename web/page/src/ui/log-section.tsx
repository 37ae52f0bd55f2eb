/** The list of calls, while it is switched on. */
import type { LogEntry } from "../store/log.js";
import { dateText, durationText, t } from "../texts/texts.js";
import { useApp, useSession } from "./context.js";
import { Button } from "./controls.js";
import { Icon, type IconName } from "./icon.js";
import { Section } from "./screen.js";

const KINDS = {
  outgoing: { icon: "outgoing", text: "logOutgoing" },
  incoming: { icon: "incoming", text: "logIncoming" },
  missed: { icon: "missed", text: "logMissed" },
} as const satisfies Record<LogEntry["kind"], { icon: IconName; text: string }>;

export function LogSection() {
  const { settings, log } = useApp();
  const { book } = useSession();
  if (!settings.value.value.keepsLog) return null;
  const entries = log.entries.value;
  return (
    <Section title={t("settingsLog")}>
      {entries.length === 0 && <p class="help">{t("settingsLogEmpty")}</p>}
      <ul class="log">
        {entries.map(({ contact, kind, at, duration }) => (
          <li key={at} data-kind={kind}>
            <Icon name={KINDS[kind].icon} />
            <bdi>{book.find(contact)?.name ?? "–"}</bdi>
            <span class="muted">
              {t(KINDS[kind].text)} · {dateText(at)}
              {duration > 0 && ` · ${durationText(duration)}`}
            </span>
          </li>
        ))}
      </ul>
      {entries.length > 0 && (
        <Button icon="remove" onClick={() => void log.clear()}>
          {t("settingsLogClear")}
        </Button>
      )}
    </Section>
  );
}
