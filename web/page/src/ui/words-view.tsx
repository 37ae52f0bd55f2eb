/** The words of a pairing: the same on both sides, unless somebody is in between. */
import type { ContactInfo } from "@chappe/client";
import { useState } from "preact/hooks";
import { t } from "../texts/texts.js";
import { useApp, useSession } from "./context.js";
import { Button } from "./controls.js";
import { ScreenFrame } from "./screen.js";

export function WordsView({ contact, isNew }: { contact: ContactInfo; isNew: boolean }) {
  const session = useSession();
  const { id, name } = contact;
  const open = () => session.show({ name: "contact", id });
  return (
    <ScreenFrame title={t("wordsTitle")} back={{ name: "contact", id }}>
      {isNew && (
        <p class="lead" role="status">
          {t("wordsNew", { name })}
        </p>
      )}
      <WordsCard contact={contact} onDone={open} />
      <Button kind="quiet" onClick={open}>
        {t("wordsLater")}
      </Button>
    </ScreenFrame>
  );
}

/** The words with their two answers. Also shown in the first call. */
export function WordsCard({ contact, onDone }: { contact: ContactInfo; onDone: () => void }) {
  const app = useApp();
  const { book, desk } = useSession();
  const [isOver, setIsOver] = useState(false);
  const words = book.words.value[contact.id];
  if (words === undefined || isOver) return null;
  const same = () => {
    void book.confirmWords(contact.id);
    onDone();
  };
  const different = () => {
    setIsOver(true);
    app.announcement.value = t("wordsDifferentDone", { name: contact.name });
    desk.hangUp();
    void book.remove(contact.id);
  };
  return (
    <section class="words card" aria-label={t("wordsTitle")}>
      <p class="muted">{t("wordsLead")}</p>
      <ol dir="ltr" lang="en">
        {words.map((word, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: words never move, and may be the same
          <li key={index}>{word}</li>
        ))}
      </ol>
      <div class="row">
        <Button kind="primary" icon="check" onClick={same}>
          {t("wordsSame")}
        </Button>
        <Button kind="danger" icon="alert" onClick={different}>
          {t("wordsDifferent")}
        </Button>
      </div>
    </section>
  );
}
