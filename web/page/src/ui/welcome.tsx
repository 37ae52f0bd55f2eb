/** The first start: a name, and where to connect. */
import { ProfileError, ProfileFileError } from "@chappe/client";
import { useState } from "preact/hooks";
import { type FirstStart, NO_FEDERATION } from "../store/app.js";
import { type Federation, type FederationFault, faultOf, namesNodes } from "../store/federation.js";
import { keyOf, t } from "../texts/texts.js";
import { useApp } from "./context.js";
import { Button, Field, MAX_NAME, Switch, Title } from "./controls.js";
import { FederationFields, federationOf, textsOf } from "./federation-form.js";
import { Logo } from "./icon.js";

type ImportFault = ProfileFileError["code"] | "in-use" | "no-lock" | "unreadable";

/** Why a file was not imported. Throws what is a fault of the page. */
function importFaultOf(error: unknown): ImportFault | undefined {
  if (error instanceof ProfileFileError) return error.code;
  if (!(error instanceof ProfileError)) throw error;
  // Otherwise another tab has wiped the profile, and this one shows the neutral page.
  return error.code === "in-use" || error.code === "no-lock" ? error.code : undefined;
}

export function Welcome() {
  const app = useApp();
  const offered = app.offered.value;
  const hasLink = app.link.value !== undefined;
  const [name, setName] = useState("");
  const [rings, setRings] = useState(false);
  const [isExportable, setIsExportable] = useState(false);
  const [texts, setTexts] = useState(() => textsOf(offered ?? NO_FEDERATION));
  const [fault, setFault] = useState<FederationFault>();
  const [file, setFile] = useState<File>();
  const [passphrase, setPassphrase] = useState("");
  const [isStarting, setIsStarting] = useState(false);
  const [fileFault, setFileFault] = useState<ImportFault>();

  const start = async () => {
    const federation = federationOf(texts);
    const found = faultOf(federation);
    // A link names a node by itself.
    setFault(found === "nothing" && hasLink ? undefined : found);
    if (found !== undefined && !(found === "nothing" && hasLink)) return;
    const first: FirstStart = { federation, name: name.trim(), rings, isExportable };
    setIsStarting(true);
    setFileFault(undefined);
    try {
      if (file === undefined) return await app.firstStart(first);
      // It may have been moved or changed since it was chosen, or belong to somebody else.
      const text = await file.text().catch(() => undefined);
      if (text === undefined) setFileFault("unreadable");
      else await app.importProfile(text, passphrase, first);
    } catch (error) {
      setFileFault(importFaultOf(error));
    } finally {
      setIsStarting(false);
    }
  };

  return (
    <main class="welcome">
      <div class="welcome-brand">
        <Logo />
        <p class="brand-name">{t("appName")}</p>
        <p class="tagline">{t("tagline")}</p>
      </div>
      <form
        class="card"
        onSubmit={(event) => {
          event.preventDefault();
          void start();
        }}
      >
        <Title>{t("welcomeTitle")}</Title>
        <p class="lead">{t("welcomeLead")}</p>
        <Field
          label={t("welcomeName")}
          help={t("welcomeNameHelp")}
          value={name}
          maxLength={MAX_NAME}
          isRequired
          onInput={setName}
        />
        <Switch label={t("welcomeRings")} isOn={rings} onChange={setRings} />
        {hasLink && <p class="found">{t("welcomeByLink")}</p>}
        {offered && namesNodes(offered) && <OfferedFederation federation={offered} />}
        <details class="more" open={offered === undefined && !hasLink}>
          <summary>{t("welcomeFederation")}</summary>
          <p class="help">{t("welcomeFederationHelp")}</p>
          <FederationFields texts={texts} onChange={setTexts} fault={fault} />
        </details>
        <details class="more">
          <summary>{t("welcomeMore")}</summary>
          <Switch
            label={t("welcomeExportable")}
            help={t("welcomeExportableHelp")}
            isOn={isExportable}
            onChange={setIsExportable}
          />
          <fieldset>
            <legend>{t("welcomeImport")}</legend>
            <label class="field">
              <span>{t("welcomeFile")}</span>
              <input type="file" onChange={(event) => setFile(event.currentTarget.files?.[0])} />
            </label>
            <Field label={t("welcomePassphrase")} value={passphrase} type="password" onInput={setPassphrase} />
            {fileFault && (
              <p class="fault" role="alert">
                {t(keyOf("settingsExportFault_", fileFault))}
              </p>
            )}
          </fieldset>
        </details>
        <Button kind="primary" type="submit" isDisabled={isStarting}>
          {t("welcomeStart")}
        </Button>
      </form>
    </main>
  );
}

/** The federation that the page's address names, for people to look at before they use it. */
export function OfferedFederation({ federation }: { federation: Federation }) {
  const { registries, nodes, dnsNames, dnsProviders, roots, id, isPrivate } = federation;
  return (
    <div class="found">
      <p>{t("welcomeFound")}</p>
      {[registries, nodes, dnsNames, dnsProviders, roots, id === "" ? [] : id].flat().map((text) => (
        <p key={text} dir="ltr" class="code">
          {text}
        </p>
      ))}
      {isPrivate && <p>{t("federationPrivate")}</p>}
    </div>
  );
}
