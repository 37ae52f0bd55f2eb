/** The first letter of a name, on a colour that stays the same for a contact. */
const COLORS = 8;

export function Avatar({ id, name, size = "small" }: { id: string; name: string; size?: "small" | "large" }) {
  const color = [...id].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % COLORS;
  const [first = "?"] = new Intl.Segmenter().segment(name.trim())[Symbol.iterator]().next().value?.segment ?? "?";
  return (
    <span class="avatar" data-size={size} data-color={color} aria-hidden="true">
      {first.toLocaleUpperCase()}
    </span>
  );
}
