/** A screen or a part of one whose code is loaded when it is opened. */
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

interface LazyProps<Props> {
  load: () => Promise<ComponentType<Props>>;
  props: Props;
}

export function Lazy<Props extends object>({ load, props }: LazyProps<Props>) {
  const [View, setView] = useState<ComponentType<Props>>();
  useEffect(() => {
    load().then((loaded) => setView(() => loaded), reportError);
  }, [load]);
  return View === undefined ? null : <View {...props} />;
}
