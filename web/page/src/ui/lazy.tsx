/** A screen or a part of one whose code is loaded when it is opened. */
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

export function Lazy({ load }: { load: () => Promise<ComponentType> }) {
  const [View, setView] = useState<ComponentType>();
  useEffect(() => {
    load().then((loaded) => setView(() => loaded), reportError);
  }, [load]);
  return View === undefined ? null : <View />;
}
