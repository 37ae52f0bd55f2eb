/** The frame of a screen: a way back, a heading, and its parts. */
import type { ComponentChildren } from "preact";
import type { Screen } from "../store/session.js";
import { t } from "../texts/texts.js";
import { useSession } from "./context.js";
import { IconButton, Title } from "./controls.js";

interface Props {
  readonly title: ComponentChildren;
  readonly children: ComponentChildren;
  readonly back?: Screen;
}

export function ScreenFrame({ title, children, back = { name: "home" } }: Props) {
  const session = useSession();
  return (
    <div class="screen">
      <header class="screen-top">
        <IconButton icon="back" label={t("back")} onClick={() => session.show(back)} />
        <Title>{title}</Title>
      </header>
      {children}
    </div>
  );
}

export function Section({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section class="card">
      <h2>{title}</h2>
      {children}
    </section>
  );
}
