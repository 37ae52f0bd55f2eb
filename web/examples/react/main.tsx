/** Shows the component. `StrictMode` mounts it twice, as React does while an app is developed. */
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Calls } from "./calls.js";

const query = new URLSearchParams(location.search);
// `isPrivate` admits nodes of 127.0.0.1. Leave it out in a federation on the internet.
const options = { registries: query.getAll("registry"), roots: query.getAll("root"), isPrivate: true };
const root = document.getElementById("root") as HTMLElement;
createRoot(root).render(
  <StrictMode>
    <Calls options={options} />
  </StrictMode>,
);
