// The notes on a run: its tags and a text.
import { html, useEffect, useState } from "/static/library/preact.js";
import { useOnce } from "/static/common/hooks.js";
import { Field } from "/static/common/parts.js";
import { apiPath, send } from "/static/common/requests.js";

const isEqual = (notes, other) => JSON.stringify(notes) === JSON.stringify(other);
const tagsIn = (text) => {
  const tags = text.split(",").map((tag) => tag.trim());
  return [...new Set(tags.filter(Boolean))];
};
const inWords = ({ text, tags }) => [tags.join(", "), text].filter(Boolean).join(" – ");

// The texts of the fields, and what is known of the notes at the studio: `known` is what the fields began with, and
// `save` replaces only that.
function useNotes(run) {
  const stored = { text: run.text, tags: run.tags };
  const [text, setText] = useState(run.text);
  const [tags, setTags] = useState(run.tags.join(", "));
  const [known, setKnown] = useState(stored);
  const [saved, setSaved] = useState(null);
  const [message, setMessage] = useState("");
  const [once, busy] = useOnce();
  const typed = { text, tags: tagsIn(tags) };
  useEffect(() => {
    // Changes from another tab are shown, unless the user has typed something here.
    if (isEqual(stored, known) || !isEqual(typed, known)) return;
    setKnown(stored);
    setText(stored.text);
    setTags(stored.tags.join(", "));
    setMessage("");
  }, [JSON.stringify(stored)]);
  const save = () =>
    once(async () => {
      try {
        const body = { ...typed, before: known };
        const answer = await send(apiPath("/studio/notes", { name: run.name }), body, { method: "PUT" });
        setKnown(answer);
        setSaved(answer);
        setMessage("");
      } catch (error) {
        if (isEqual(stored, known)) {
          setMessage(error.message);
          return;
        }
        setKnown(stored);
        setMessage(
          "Not saved, since they were changed elsewhere in the meantime, " +
            `to “${inWords(stored)}”. Save again to replace them.`,
        );
      }
    });
  // Text that was typed after the last save is not saved.
  const isSaved = saved && isEqual(saved, typed);
  const status = busy ? "Saving …" : message || (isSaved ? "Saved" : "");
  return { text, setText, tags, setTags, save, busy, status };
}

// The card with the notes on a run.
export function Notes({ run }) {
  const { text, setText, tags, setTags, save, busy, status } = useNotes(run);
  return html`<section class="card">
    <header>
      <h2>Notes</h2>
      <span class="quiet" role="status">${status}</span
      ><button class="btn small" aria-disabled=${busy} onClick=${save}>Save</button>
    </header>
    <div class="stack">
      <${Field}
        name="Tags"
        input=${html`<input
          value=${tags}
          placeholder="baseline, ablation"
          onInput=${(event) => setTags(event.target.value)}
        />`}
      /><${Field}
        name="Text"
        input=${html`<textarea rows="3" value=${text} onInput=${(event) => setText(event.target.value)} />`}
      />
    </div>
  </section>`;
}
