// The module of our widgets. It is this folder's scripts, joined in one text. Two kinds of widget
// model use it:
// - A `page` model is made once for a log, and never shown. It gives the finished views on this
//   page, which are plain HTML, their buttons.
// - A `live` model shows a run while it goes on.
// The output of a language model becomes text nodes, and nothing else.

export default {
  initialize({ model }) {
    if (model.get("role") === "page") return openPage(model);
    return follow(model);
  },
  render: renderLive,
};
