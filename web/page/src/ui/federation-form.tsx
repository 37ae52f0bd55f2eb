/** The fields of a federation. */
import { type Federation, type FederationFault, linesOf } from "../store/federation.js";
import { keyOf, t } from "../texts/texts.js";
import { Field, Switch } from "./controls.js";

/** What is written in the fields. */
export interface FederationTexts {
  readonly registries: string;
  readonly roots: string;
  readonly id: string;
  readonly nodes: string;
  readonly dnsNames: string;
  readonly dnsProviders: string;
  readonly isPrivate: boolean;
}

export function textsOf(federation: Federation): FederationTexts {
  const { registries, roots, id, nodes, dnsNames, dnsProviders, isPrivate } = federation;
  return {
    registries: registries.join("\n"),
    roots: roots.join("\n"),
    id,
    nodes: nodes.join("\n"),
    dnsNames: dnsNames.join("\n"),
    dnsProviders: dnsProviders.join("\n"),
    isPrivate,
  };
}

export function federationOf(texts: FederationTexts): Federation {
  const { registries, roots, id, nodes, dnsNames, dnsProviders, isPrivate } = texts;
  return {
    registries: linesOf(registries),
    roots: linesOf(roots),
    id: id.trim(),
    nodes: linesOf(nodes),
    dnsNames: linesOf(dnsNames),
    dnsProviders: linesOf(dnsProviders),
    isPrivate,
  };
}

interface Props {
  readonly texts: FederationTexts;
  readonly onChange: (texts: FederationTexts) => void;
  readonly fault: FederationFault | undefined;
}

export function FederationFields({ texts, onChange, fault }: Props) {
  const field = (name: Exclude<keyof FederationTexts, "isPrivate">, label: string, rows: number) => (
    <Field
      label={label}
      value={texts[name]}
      rows={rows}
      isCode
      onInput={(value) => onChange({ ...texts, [name]: value })}
    />
  );
  return (
    <>
      {field("registries", t("federationRegistries"), 2)}
      {field("roots", t("federationRoots"), 2)}
      <details class="more">
        <summary>{t("more")}</summary>
        {field("id", t("federationId"), 1)}
        {field("nodes", t("federationNodes"), 2)}
        {field("dnsNames", t("federationDnsNames"), 1)}
        {field("dnsProviders", t("federationDnsProviders"), 2)}
        <Switch
          label={t("federationPrivate")}
          isOn={texts.isPrivate}
          onChange={(isPrivate) => onChange({ ...texts, isPrivate })}
        />
      </details>
      {fault && (
        <p class="fault" role="alert">
          {t(keyOf("federationFault_", fault))}
        </p>
      )}
    </>
  );
}
