/** A round button of a call, with its name below. */
import { Icon, type IconName } from "./icon.js";

interface Props {
  readonly icon: IconName;
  readonly label: string;
  readonly onClick: () => void;
  readonly kind?: "plain" | "go" | "danger";
  /** Whether this button has switched something on. */
  readonly isActive?: boolean | undefined;
  /** Whether what is usually on is on. */
  readonly isOn?: boolean | undefined;
  readonly isExpanded?: boolean | undefined;
}

export function CallButton({ icon, label, onClick, kind = "plain", isActive, isOn, isExpanded }: Props) {
  return (
    <button
      type="button"
      class="call-button"
      data-kind={kind}
      data-on={isOn}
      data-active={isActive}
      aria-expanded={isExpanded}
      onClick={onClick}
    >
      <span class="call-button-face">
        <Icon name={icon} />
      </span>
      <span class="call-button-label">{label}</span>
    </button>
  );
}
