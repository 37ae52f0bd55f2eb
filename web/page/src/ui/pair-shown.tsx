/** A code to read out, or a link and a QR code to send. */
import { qrSvg } from "@chappe/client/qr";
import { useEffect, useState } from "preact/hooks";
import { t } from "../texts/texts.js";
import { useNow, useSession } from "./context.js";
import { Button } from "./controls.js";

export function PairShown({ isForLink }: { isForLink: boolean }) {
  const { pairing } = useSession();
  // For a moment after a change of the tab, the code is still that of the other one, which is void.
  const shown = pairing.shown.value?.isForLink === isForLink ? pairing.shown.value : undefined;
  const now = useNow(shown !== undefined);
  if (shown === undefined) {
    return pairing.isBusy.value ? (
      <p class="muted" role="status">
        {t("pairMaking")}
      </p>
    ) : (
      <Button icon="refresh" onClick={() => void pairing.show(isForLink)}>
        {t("pairAgain")}
      </Button>
    );
  }
  const minutes = Math.max(0, Math.round((shown.expiresAt - now) / 60_000));
  return (
    <>
      <p>{t(isForLink ? "pairLinkLead" : "pairCodeLead")}</p>
      {isForLink ? (
        <ShownLink link={shown.link} qrText={shown.qrText} />
      ) : (
        <output class="pair-code" dir="ltr">
          {shown.code}
        </output>
      )}
      <p class="waiting">
        <span class="spinner" />
        <span>
          {t("pairWaiting")} <span class="muted">{t("pairCodeExpires", { minutes })}</span>
        </span>
      </p>
    </>
  );
}

function ShownLink({ link, qrText }: { link: string | undefined; qrText: string | undefined }) {
  const [image, setImage] = useState<string>();
  useEffect(() => {
    if (qrText === undefined) return;
    void qrSvg(qrText).then((svg) => setImage(`data:image/svg+xml,${encodeURIComponent(svg)}`));
  }, [qrText]);
  return (
    <div class="pair-link">
      {image && <img class="qr" src={image} alt={t("pairQrLabel")} />}
      {link && <LinkText link={link} />}
    </div>
  );
}

function selectAll(event: FocusEvent & { currentTarget: HTMLInputElement }): void {
  event.currentTarget.select();
}

function LinkText({ link }: { link: string }) {
  const [isCopied, setIsCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(link);
    setIsCopied(true);
  };
  return (
    <>
      <div class="field link-text">
        <input readOnly value={link} dir="ltr" aria-label={t("pairLinkLabel")} onFocus={selectAll} />
      </div>
      <div class="row">
        <Button icon={isCopied ? "check" : "copy"} onClick={() => void copy()}>
          {isCopied ? t("copied") : t("copy")}
        </Button>
        {"share" in navigator && (
          <Button icon="share" onClick={() => void navigator.share({ text: link }).catch(() => undefined)}>
            {t("pairShare")}
          </Button>
        )}
      </div>
    </>
  );
}
