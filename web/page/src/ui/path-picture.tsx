/** The path of a call. The code that draws it is loaded when it is shown. */
import type { ActiveCall } from "../store/active-call.js";
import { Lazy } from "./lazy.js";

const loadPath = async () => (await import("./path-view.js")).PathView;

export function PathPicture(props: { active: ActiveCall; name: string }) {
  return <Lazy load={loadPath} props={props} />;
}
