/** What a person has to know about the devices of this call. */
import type { DeviceNotice } from "../store/desk.js";
import { keyOf, t } from "../texts/texts.js";
import { useSession } from "./context.js";
import { Button, IconButton } from "./controls.js";
import { Icon } from "./icon.js";

export function Notice() {
  const { desk } = useSession();
  const notice = desk.notice.value;
  if (notice === undefined) return null;
  const source = notice.kind === "refused" ? notice.source : notice.kind === "silent" ? "microphone" : undefined;
  return (
    <div class="notice" role="alert">
      <Icon name="alert" />
      <p>{noticeText(notice)}</p>
      {source && <Button onClick={() => void desk.open(source)}>{t("noticeAgain")}</Button>}
      <IconButton
        icon="close"
        label={t("close")}
        onClick={() => {
          desk.notice.value = undefined;
        }}
      />
    </div>
  );
}

function noticeText(notice: DeviceNotice): string {
  switch (notice.kind) {
    case "refused":
      return notice.source === "screen"
        ? t("notice_refused_screen")
        : t(keyOf(`notice_refused_${notice.source}_`, notice.code));
    case "lost": {
      const lost = t(`notice_lost_${notice.source}`);
      return notice.replacement ? `${lost} ${t("notice_lost_now", { label: notice.replacement })}` : lost;
    }
    case "returned":
      return t("notice_returned", { label: notice.label });
    case "silent":
      return t("notice_silent");
  }
}
