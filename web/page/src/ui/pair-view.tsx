/** Pairing: one shows a code, a link or a QR code, the other enters or scans it. */
import { useEffect, useState } from "preact/hooks";
import { keyOf, type TextKey, t } from "../texts/texts.js";
import { useSession } from "./context.js";
import { PairEnter } from "./pair-enter.js";
import { PairShown } from "./pair-shown.js";
import { ScreenFrame } from "./screen.js";

const TABS = { code: "pairTabCode", link: "pairTabLink", enter: "pairTabEnter" } as const satisfies Record<
  string,
  TextKey
>;
type Tab = keyof typeof TABS;

export function PairView() {
  const { pairing } = useSession();
  // A link that the page was opened with is being entered, or waits for the person.
  const isOffered = pairing.offered.value !== undefined;
  const [tab, setTab] = useState<Tab>(() => (pairing.isBusy.peek() || isOffered ? "enter" : "code"));
  useEffect(() => {
    if (isOffered) setTab("enter");
  }, [isOffered]);
  const fault = pairing.fault.value;

  useEffect(() => {
    if (tab === "enter") {
      if (pairing.shown.peek() !== undefined) pairing.cancel();
    } else void pairing.show(tab === "link");
  }, [tab, pairing]);
  useEffect(() => () => pairing.cancel(), [pairing]);

  return (
    <ScreenFrame title={t("pairTitle")}>
      <p class="lead">{t("pairLead")}</p>
      <div class="tabs" role="tablist" aria-label={t("pairTitle")} onKeyDown={moveTab}>
        {(Object.keys(TABS) as Tab[]).map((name) => (
          <button
            key={name}
            type="button"
            role="tab"
            id={`tab-${name}`}
            aria-selected={tab === name}
            aria-controls="pair-panel"
            tabIndex={tab === name ? 0 : -1}
            onClick={() => setTab(name)}
          >
            {t(TABS[name])}
          </button>
        ))}
      </div>
      <div id="pair-panel" role="tabpanel" aria-labelledby={`tab-${tab}`} class="card">
        {tab === "enter" ? <PairEnter /> : <PairShown isForLink={tab === "link"} />}
        {fault && (
          <p class="fault" role="alert">
            {t(keyOf("pairFault_", fault))}
          </p>
        )}
      </div>
    </ScreenFrame>
  );
}

/** The arrow keys go from tab to tab, as in every list of tabs. */
function moveTab(event: KeyboardEvent & { currentTarget: HTMLElement }): void {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step === undefined) return;
  const tabs = [...event.currentTarget.querySelectorAll<HTMLElement>("[role=tab]")];
  const isReversed = getComputedStyle(event.currentTarget).direction === "rtl";
  const at = tabs.indexOf(document.activeElement as HTMLElement) + (isReversed ? -step : step);
  const next = tabs[(at + tabs.length) % tabs.length];
  next?.focus();
  next?.click();
}
