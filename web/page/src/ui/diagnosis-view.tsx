/** «Why doesn't it work»: each line with its cause and what helps. */
import type { CaptureFault } from "@chappe/client/capture";
import { effect } from "@preact/signals-core";
import { useEffect, useMemo } from "preact/hooks";
import { type Check, Diagnosis, type Verdict } from "../store/diagnosis.js";
import { keyOf, type TextKey, t } from "../texts/texts.js";
import { useSession } from "./context.js";
import { Button } from "./controls.js";
import { Icon, type IconName } from "./icon.js";
import { ScreenFrame } from "./screen.js";

const VERDICTS = {
  good: { icon: "check", text: "verdictGood" },
  warning: { icon: "alert", text: "verdictWarning" },
  bad: { icon: "close", text: "verdictBad" },
  skipped: { icon: "block", text: "verdictSkipped" },
} as const satisfies Record<Verdict, { icon: IconName; text: TextKey }>;

export function DiagnosisView() {
  const session = useSession();
  const diagnosis = useMemo(() => new Diagnosis(session), [session]);
  const checks = diagnosis.checks.value;
  const isRunning = diagnosis.isRunning.value;
  useEffect(() => effect(() => diagnosis.readNetwork()), [diagnosis]);
  const isBad = checks.some(({ verdict }) => verdict === "bad");
  return (
    <ScreenFrame title={t("diagnosisTitle")}>
      <p class="lead">{t("diagnosisLead")}</p>
      <div class="row">
        <Button kind="primary" icon="refresh" isDisabled={isRunning} onClick={() => void diagnosis.run()}>
          {isRunning ? t("diagnosisRunning") : t("diagnosisRun")}
        </Button>
        <p role="status" class="muted">
          {!isRunning &&
            checks.every(({ verdict }) => verdict !== undefined) &&
            t(isBad ? "diagnosisSome" : "diagnosisAllGood")}
        </p>
      </div>
      <ul class="checks card">
        {checks.map((check) => (
          <CheckLine key={check.id} check={check} diagnosis={diagnosis} />
        ))}
      </ul>
    </ScreenFrame>
  );
}

function CheckLine({ check, diagnosis }: { check: Check; diagnosis: Diagnosis }) {
  const { id, verdict, details } = check;
  const isRunning = diagnosis.isRunning.value && verdict === undefined;
  const help = helpOf(check);
  return (
    <li data-check={id} data-verdict={verdict ?? "open"}>
      <span class="check-mark" data-busy={isRunning}>
        {verdict && <Icon name={VERDICTS[verdict].icon} />}
      </span>
      <div>
        <p class="check-name">
          {t(`check_${id}`)}
          <span class="check-verdict">
            {verdict ? t(VERDICTS[verdict].text) : isRunning ? t("verdictRunning") : "–"}
          </span>
        </p>
        {id === "microphone" && isRunning && <Meter diagnosis={diagnosis} />}
        {help && <p class="help">{help}</p>}
        {details.map((detail) => (
          <p key={detail} class="code" dir="ltr">
            {detail}
          </p>
        ))}
      </div>
    </li>
  );
}

function Meter({ diagnosis }: { diagnosis: Diagnosis }) {
  return <meter min={0} max={0.3} value={diagnosis.level.value} aria-label={t("check_microphone")} />;
}

/** The cause and what helps. Nothing for what works. */
function helpOf({ id, verdict, cause }: Check): string | undefined {
  if (verdict === "skipped") return id.startsWith("turn") ? t("help_relay_none") : undefined;
  if (verdict !== "bad" && verdict !== "warning") return undefined;
  if (id === "proof") return t(cause === "equivocation" ? "help_proof_equivocation" : "help_proof_unconfirmed");
  if (id === "microphone" && cause === "silent") return t("help_microphone_silent");
  if (id === "microphone" || id === "camera") {
    return t(keyOf(`notice_refused_${id}_`, (cause ?? "none") as CaptureFault));
  }
  return t(`help_${id}`);
}
