/** A contact: whether it can be reached, and calling it. */
import type { ContactInfo } from "@chappe/client";
import { useState } from "preact/hooks";
import { t, timeText } from "../texts/texts.js";
import { Avatar } from "./avatar.js";
import { useSession } from "./context.js";
import { Button, Field, IconButton, MAX_NAME, Switch } from "./controls.js";
import { ScreenFrame } from "./screen.js";

export function ContactView({ contact }: { contact: ContactInfo }) {
  const session = useSession();
  const { client, desk, book } = session;
  const { id, name } = contact;
  const isConnected = session.network.status.value === "connected";
  return (
    <ScreenFrame title={<bdi>{name}</bdi>}>
      <div class="contact-head">
        <Avatar id={id} name={name} size="large" />
        <ReachLine contact={contact} />
        <div class="row">
          <Button kind="primary" icon="phone" isDisabled={!isConnected} onClick={() => void desk.place(id, false)}>
            {t("contactCall")}
          </Button>
          <Button icon="camera" isDisabled={!isConnected} onClick={() => void desk.place(id, true)}>
            {t("contactVideo")}
          </Button>
        </div>
      </div>
      {book.words.value[id] && (
        <div class="banner row">
          <p>{t("contactWordsOpen")}</p>
          <Button onClick={() => session.show({ name: "words", id, isNew: false })}>{t("contactWordsCompare")}</Button>
        </div>
      )}
      <section class="card">
        <Switch
          label={t("contactRelay")}
          help={t(contact.isDirectAllowed ? "contactRelayOff" : "contactRelayOn", { name })}
          isOn={!contact.isDirectAllowed}
          onChange={(isRelayed) => void client.allowDirect(id, !isRelayed)}
        />
      </section>
      <section class="card">
        <Rename contact={contact} />
        <Switch
          label={t("contactBlock")}
          help={t("contactBlockHelp")}
          isOn={contact.isBlocked}
          onChange={(isBlocked) => void client.blockContact(id, isBlocked)}
        />
        <Remove contact={contact} />
      </section>
    </ScreenFrame>
  );
}

function ReachLine({ contact }: { contact: ContactInfo }) {
  const { book } = useSession();
  const reach = book.reach.value.get(contact.id);
  const state = reach?.state ?? "asking";
  const text = {
    asking: t("contactAsking", { name: contact.name }),
    reachable: t("contactReachable"),
    unreachable: t("contactUnreachable"),
    unknown: t("contactUnknown"),
  }[state];
  return (
    <p class="reach" data-state={state}>
      <span class="dot" />
      <span role="status">{text}</span>
      {reach !== undefined && state !== "asking" && (
        <>
          <span class="muted">· {t("contactAskedAt", { time: timeText(reach.at) })}</span>
          <IconButton icon="refresh" label={t("contactAsk")} onClick={() => void book.lookUp(contact.id)} />
        </>
      )}
    </p>
  );
}

function Rename({ contact }: { contact: ContactInfo }) {
  const { client } = useSession();
  const [name, setName] = useState(contact.name);
  const isChanged = name.trim() !== "" && name !== contact.name;
  return (
    <form
      class="row field-row"
      onSubmit={(event) => {
        event.preventDefault();
        if (isChanged) void client.renameContact(contact.id, name.trim());
      }}
    >
      <Field label={t("contactRename")} value={name} onInput={setName} maxLength={MAX_NAME} />
      {isChanged && <Button type="submit">{t("save")}</Button>}
    </form>
  );
}

function Remove({ contact }: { contact: ContactInfo }) {
  const session = useSession();
  const [isAsking, setIsAsking] = useState(false);
  if (!isAsking) {
    return (
      <Button kind="danger" icon="remove" onClick={() => setIsAsking(true)}>
        {t("contactRemove")}
      </Button>
    );
  }
  const remove = async () => {
    await session.book.remove(contact.id);
    session.show({ name: "home" });
  };
  return (
    <div role="alert">
      <p>{t("contactRemoveSure", { name: contact.name })}</p>
      <div class="row">
        <Button kind="danger" icon="remove" onClick={() => void remove()}>
          {t("contactRemove")}
        </Button>
        <Button onClick={() => setIsAsking(false)}>{t("cancel")}</Button>
      </div>
    </div>
  );
}
